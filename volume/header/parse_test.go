// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

func sealed(t testing.TB) []byte {
	t.Helper()
	black, blob, err := caamtest.RandomChip().Create(t.Context(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	black.Wipe()
	return blob
}

func someToken(t testing.TB) Token {
	return Token{
		Source: spec.SourceCAAM, Phase: PhaseReady, Generation: 3, Blob: sealed(t), Wrap: caam.CCM, KeySize: 32, State: caam.Closed,
		Segments: []string{"0"}, Created: time.Unix(1_700_000_000, 0).UTC(), Filesystem: FilesystemID{Type: "ext4", UUID: "u"},
	}
}

func members(t testing.TB, tok luks2.Token) []byte {
	t.Helper()
	text, err := json.Marshal(tok.Extra)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Any token is either refused, or its parsed form can be written and parsed again with
// the same result.
func FuzzParseToken(f *testing.F) {
	tok := someToken(f)
	raw, err := tok.luks()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(members(f, raw))
	tok.Source, tok.Blob, tok.Wrap, tok.Phase = spec.SourceDev, nil, "", PhaseProvisioning
	if raw, err = tok.luks(); err != nil {
		f.Fatal(err)
	}
	f.Add(members(f, raw))
	for _, text := range []string{
		`{}`, `{"source":"caam"}`, `{"generation":"01"}`, `{"generation":"99999999999999999999"}`, `{"key_size":-1}`, `{"key_size":1e9}`,
		`{"segments":null}`, `{"created":"0000-00-00T00:00:00Z"}`, `{"filesystem":{"type":""}}`, `{"recovery":{}}`, `{"Source":"dev"}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var m luks2.Members
		if json.Unmarshal(text, &m) != nil {
			return
		}
		got, err := parseToken(luks2.Token{Type: tokenType, Extra: m})
		if err != nil {
			return
		}
		raw, err := got.luks()
		if err != nil {
			t.Fatalf("understood, but cannot be written: %v", err)
		}
		again, err := parseToken(raw)
		if err != nil {
			t.Fatalf("written, but not understood: %v\n%s", err, members(t, raw))
		}
		// In the header Created has a resolution of seconds; what was parsed may have
		// more.
		got.Created, again.Created = time.Time{}, time.Time{}
		if !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v\nbecame %+v", got, again)
		}
	})
}

func FuzzParseCheck(f *testing.F) {
	c := Check{Offset: MetadataSize, Size: CheckAreaSize, Digest: sha256.Sum256(nil), Segments: []string{"0"}}
	raw, err := c.luks()
	if err != nil {
		f.Fatal(err)
	}
	text, err := json.Marshal(raw.Extra)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, MiB)
	f.Add([]byte(`{}`), MiB)
	f.Add([]byte(`{"offset":"9223372036854775807","size":"4096","hash":"sha256","digest":"AA=="}`), MiB)
	f.Add([]byte(`{"offset":"-4096","size":"4096"}`), int64(0))
	f.Fuzz(func(t *testing.T, text []byte, area int64) {
		var m luks2.Members
		if json.Unmarshal(text, &m) != nil {
			return
		}
		got, err := parseCheck(luks2.Digest{Type: digestType, Segments: []string{"0"}, Extra: m}, area)
		if err != nil || !got.InHeader() {
			return
		}
		if got.Offset < MetadataSize || got.Offset+got.Size > area || got.Offset%BlockAlign != 0 {
			t.Fatalf("an area outside of the header of %d bytes: %+v", area, got)
		}
		raw, err := got.luks()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseCheck(raw, area); err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v\nbecame %+v: %v", got, again, err)
		}
	})
}

func TestTokenIsReadAsWritten(t *testing.T) {
	t.Parallel()
	want := someToken(t)
	raw, err := want.luks()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseToken(raw)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nbecame %+v: %v", want, got, err)
	}
}

func TestTokenRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for field, value := range map[string]string{
		"phase": `"finished"`, "generation": `"0"`, "blob": `"not base64"`, "wrap": `"cbc"`, "key_size": `12`, "state": `"ajar"`,
		"segments": `["0","1"]`, "created": `"yesterday"`, "source": `"tpm"`, "colour": `"blue"`, "filesystem": `{"type":""}`,
	} {
		raw, err := someToken(t).luks()
		if err != nil {
			t.Fatal(err)
		}
		raw.Extra[field] = json.RawMessage(value)
		if _, err := parseToken(raw); err == nil {
			t.Errorf("%s %s was understood", field, value)
		}
	}
}

// A check fits only its own header.
func TestCheckIsBoundToItsHeader(t *testing.T) {
	t.Parallel()
	b := Binding{UUID: "u", Label: "data", Generation: 1, Segment: boundSegment{Offset: 2 * MiB, Size: MiB, Cipher: "c", SectorSize: 4096}}
	block, err := NewCheckBlock(bytes.NewReader(make([]byte, CheckAreaSize)), b)
	if err != nil {
		t.Fatal(err)
	}
	c := Check{Digest: sha256.Sum256(block)}
	if !c.Fits(block, b) {
		t.Fatal("does not fit")
	}
	for what, change := range map[string]func(*Binding){
		"uuid": func(b *Binding) { b.UUID = "v" }, "label": func(b *Binding) { b.Label = "e" },
		"generation": func(b *Binding) { b.Generation++ }, "offset": func(b *Binding) { b.Segment.Offset += 4096 },
		"size": func(b *Binding) { b.Segment.Size -= 4096 }, "cipher": func(b *Binding) { b.Segment.Cipher = "d" },
		"sector size": func(b *Binding) { b.Segment.SectorSize = 512 }, "iv tweak": func(b *Binding) { b.Segment.IVTweak = 1 },
	} {
		other := b
		change(&other)
		if c.Fits(block, other) {
			t.Errorf("fits with another %s", what)
		}
	}
	block[7] ^= 1
	if c.Fits(block, b) {
		t.Error("fits with another block")
	}
}
