// SPDX-License-Identifier: Apache-2.0

package dmcrypt_test

import (
	"errors"
	"strings"
	"testing"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/devnum"
	"imxcrypt/internal/fault"
)

var disk = dmcrypt.Number{Major: 8, Minor: 1}

// volume returns the table of a volume as provisioning makes it.
func volume(change func(*dmcrypt.Crypt)) dmcrypt.Table {
	c := dmcrypt.Crypt{
		Length: 4096, Cipher: "capi:tk(cbc(aes))-plain64", Device: disk, Offset: 4096,
		Key:     dmcrypt.KeyRef{Size: 64, Type: "logon", Description: "imxcrypt:0d2b5ff0-6a3a-4f1e-9a3b-3a6c5e2f7d10:1"},
		Options: []string{"sector_size:4096"},
	}
	if change != nil {
		change(&c)
	}
	return dmcrypt.Table{c}
}

func TestTableIsWrittenInDmsetupsNotation(t *testing.T) {
	t.Parallel()
	for want, table := range map[string]dmcrypt.Table{
		"0 4096 crypt capi:tk(cbc(aes))-plain64 :64:logon:imxcrypt:0d2b5ff0-6a3a-4f1e-9a3b-3a6c5e2f7d10:1 0 8:1 4096 1 sector_size:4096": volume(nil),
		"0 4096 crypt capi:tk(cbc(aes))-plain64 :64:logon:imxcrypt:0d2b5ff0-6a3a-4f1e-9a3b-3a6c5e2f7d10:1 0 8:1 4096":                    volume(func(c *dmcrypt.Crypt) { c.Options = nil }),
		"0 8 linear 8:1 16": {dmcrypt.Linear{Length: 8, Device: disk, Offset: 16}},
		"0 8 zero\n8 8 error\n16 8 flakey 8:1 0 1 2 1 error_writes": {
			dmcrypt.Zero{Length: 8}, dmcrypt.Fail{Start: 8, Length: 8},
			dmcrypt.Flakey{Start: 16, Length: 8, Device: disk, Up: 1, Down: 2, Options: []string{"error_writes"}},
		},
	} {
		if got := table.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		if err := table.Validate(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		parsed, err := dmcrypt.ParseTable(want + "\n")
		if err != nil || !table.Equal(parsed) || parsed.String() != want {
			t.Errorf("%s: parsed as %v, %v", want, parsed, err)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*dmcrypt.Crypt)
		kind   dmcrypt.Kind // empty if it is allowed
		code   fault.Code
	}{
		"a volume":                      {change: nil},
		"plain below 2^32 sectors":      {change: func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))-plain" }},
		"eboiv with large sectors":      {change: func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))-eboiv" }},
		"the dev source":                {change: func(c *dmcrypt.Crypt) { c.Cipher, c.Key.Size = "aes-xts-plain64", 64 }},
		"essiv over a plain key":        {change: func(c *dmcrypt.Crypt) { c.Cipher, c.Key.Size = "aes-cbc-essiv:sha256", 32 }},
		"an algorithm we do not know":   {change: func(c *dmcrypt.Crypt) { c.Cipher, c.Key.Size = "capi:adiantum(xchacha12,aes)-plain64", 32 }},
		"a trusted key":                 {change: func(c *dmcrypt.Crypt) { c.Key = dmcrypt.KeyRef{Size: 64, Type: "trusted", Description: "kmk"} }},
		"essiv over a black key":        {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))-essiv:sha256" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"essiv by the driver's name":    {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk-cbc-aes-caam-essiv:sha256" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"lmk over a black key":          {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))-lmk" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"tcw over a black key":          {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))-tcw" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"elephant over a black key":     {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))-elephant" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"essiv over a protected key":    {func(c *dmcrypt.Crypt) { c.Cipher = "capi:cbc(paes)-essiv:sha256" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"essiv without a hash":          {func(c *dmcrypt.Crypt) { c.Cipher, c.Key.Size = "aes-cbc-essiv", 32 }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"random vectors":                {func(c *dmcrypt.Crypt) { c.Cipher, c.Key.Size = "aes-cbc-random", 32 }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"several keys":                  {func(c *dmcrypt.Crypt) { c.Cipher = "aes:64-cbc-lmk" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"AEAD":                          {func(c *dmcrypt.Crypt) { c.Cipher = "capi:gcm(aes)-random" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"a cipher without mode":         {func(c *dmcrypt.Crypt) { c.Cipher = "aes" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"a cipher of two words":         {func(c *dmcrypt.Crypt) { c.Cipher = "aes-xts-plain64 x" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"a capi without mode":           {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes))" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"parentheses that do not match": {func(c *dmcrypt.Crypt) { c.Cipher = "capi:tk(cbc(aes)-plain64" }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"plain beyond 2^32 sectors":     {func(c *dmcrypt.Crypt) { c.Cipher, c.Length = "capi:tk(cbc(aes))-plain", 1<<32+8 }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"eboiv with small sectors":      {func(c *dmcrypt.Crypt) { c.Cipher, c.Options = "capi:tk(cbc(aes))-eboiv", nil }, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"eboiv without the workqueue": {func(c *dmcrypt.Crypt) {
			c.Cipher = "capi:tk(cbc(aes))-eboiv"
			c.Options = []string{"no_read_workqueue", "sector_size:4096"}
		}, dmcrypt.ErrCipher, fault.CipherNotAllowed},
		"the size of another key":        {func(c *dmcrypt.Crypt) { c.Key.Size = 20 }, dmcrypt.ErrKeySize, fault.KeyLengthMismatch},
		"a red key's size":               {func(c *dmcrypt.Crypt) { c.Key.Size = 32 }, dmcrypt.ErrKeySize, fault.KeyLengthMismatch},
		"xts with a cbc key's size":      {func(c *dmcrypt.Crypt) { c.Cipher, c.Key.Size = "aes-xts-plain64", 24 }, dmcrypt.ErrKeySize, fault.KeyLengthMismatch},
		"an absurd key size":             {func(c *dmcrypt.Crypt) { c.Key.Size = 1 << 40 & 0x7fffffff }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"no key":                         {func(c *dmcrypt.Crypt) { c.Key = dmcrypt.KeyRef{} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a key in the clear":             {func(c *dmcrypt.Crypt) { c.Key = dmcrypt.KeyRef{Size: 64, InTheClear: true} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a user key":                     {func(c *dmcrypt.Crypt) { c.Key.Type = "user" }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a key's name with a blank":      {func(c *dmcrypt.Crypt) { c.Key.Description = "imxcrypt:a b" }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a key's name with a backslash":  {func(c *dmcrypt.Crypt) { c.Key.Description = `imxcrypt:a\b` }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a logon key without prefix":     {func(c *dmcrypt.Crypt) { c.Key.Description = "volume" }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a length of half a sector":      {func(c *dmcrypt.Crypt) { c.Length = 4097 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"an offset of half a sector":     {func(c *dmcrypt.Crypt) { c.Offset = 4 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"an iv offset of half a sector":  {func(c *dmcrypt.Crypt) { c.IVOffset = 3 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a start that is not zero":       {func(c *dmcrypt.Crypt) { c.Start = 8 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"no length":                      {func(c *dmcrypt.Crypt) { c.Length = 0 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a length that overflows":        {func(c *dmcrypt.Crypt) { c.Length = 1<<64 - 8 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"an offset that overflows":       {func(c *dmcrypt.Crypt) { c.Offset = 1<<64 - 8 }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"no device":                      {func(c *dmcrypt.Crypt) { c.Device = dmcrypt.Number{} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"options in another order":       {func(c *dmcrypt.Crypt) { c.Options = []string{"sector_size:4096", "allow_discards"} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"an option given twice":          {func(c *dmcrypt.Crypt) { c.Options = []string{"allow_discards", "allow_discards"} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"an unknown option":              {func(c *dmcrypt.Crypt) { c.Options = []string{"turbo"} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"integrity":                      {func(c *dmcrypt.Crypt) { c.Options = []string{"integrity:32:aead"} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a sector size that is no power": {func(c *dmcrypt.Crypt) { c.Options = []string{"sector_size:1536"} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
		"a sector size beyond a page":    {func(c *dmcrypt.Crypt) { c.Options = []string{"sector_size:8192"} }, dmcrypt.ErrInvalid, fault.ConfigInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := volume(c.change).Validate()
			if c.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, c.kind) || fault.CodeOf(err) != c.code {
				t.Errorf("got %v (%s), want kind %q and code %s", err, fault.CodeOf(err), c.kind, c.code)
			}
		})
	}
}

func TestTablesHaveNoHoles(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]dmcrypt.Table{
		"nothing":    {},
		"a hole":     {dmcrypt.Zero{Length: 8}, dmcrypt.Zero{Start: 9, Length: 8}},
		"an overlap": {dmcrypt.Zero{Length: 8}, dmcrypt.Zero{Start: 7, Length: 8}},
		"a nil":      {nil},
		"unknown":    {dmcrypt.Unknown{Length: 8, Name: "verity"}},
	} {
		if err := table.Validate(); !errors.Is(err, dmcrypt.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCryptOptions(t *testing.T) {
	t.Parallel()
	got, err := dmcrypt.CryptOptions(4096, "no_write_workqueue", "high_priority", "allow_discards", "iv_large_sectors", "same_cpu_crypt", "no_read_workqueue", "submit_from_crypt_cpus")
	want := "allow_discards same_cpu_crypt high_priority submit_from_crypt_cpus no_read_workqueue no_write_workqueue sector_size:4096 iv_large_sectors"
	if err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := dmcrypt.CryptOptions(512); err != nil || len(got) != 0 {
		t.Errorf("sectors of 512 bytes: %v, %v", got, err)
	}
	for _, flags := range [][]string{{"turbo"}, {"sector_size:512"}, {"allow_discards:1"}, {"allow_discards", "allow_discards"}, {""}} {
		if got, err := dmcrypt.CryptOptions(0, flags...); err == nil {
			t.Errorf("%q gave %v", flags, got)
		}
	}
	old, recent := dmcrypt.Version{Major: 1, Minor: 24}, dmcrypt.Version{Major: 1, Minor: 28}
	if dmcrypt.SupportsOption(old, "high_priority") || !dmcrypt.SupportsOption(recent, "high_priority") || dmcrypt.SupportsOption(recent, "turbo") {
		t.Error("the versions that brought options")
	}
}

// For someone else's table with a key in the clear, the key's place is kept, but not the
// key.
func TestAKeyInTheClearIsNotKept(t *testing.T) {
	t.Parallel()
	const key = "00112233445566778899aabbccddeeff"
	table, err := dmcrypt.ParseTable("0 8 crypt aes-cbc-plain64 " + key + " 0 8:1 0")
	if err != nil {
		t.Fatal(err)
	}
	if c := table[0].(dmcrypt.Crypt); !c.Key.InTheClear || c.Key.Size != 16 {
		t.Errorf("key %+v", c.Key)
	}
	if want := "0 8 crypt aes-cbc-plain64 " + strings.Repeat("0", 32) + " 0 8:1 0"; table.String() != want {
		t.Errorf("got %s, want dmsetup's zeros: %s", table, want)
	}
	if err := table.Validate(); !errors.Is(err, dmcrypt.ErrInvalid) {
		t.Errorf("it may be loaded (%v)", err)
	}
	diff := strings.Join(volume(nil).Diff(table), "\n")
	if !strings.Contains(diff, "in the clear") || strings.Contains(diff, key) {
		t.Errorf("difference %q", diff)
	}
	for _, bad := range []string{
		"0 8 crypt aes-cbc-plain64 " + key + "0 0 8:1 0",
		"0 8 crypt aes-cbc-plain64 " + key + "zz 0 8:1 0",
		"0 8 crypt " + key,
		"0 8 crypt aes-cbc-plain64 " + key + " 0 8:1 0 1 integrity:16:aead",
		"0 8 linear 8:1 0 " + key,
		key,
	} {
		if _, err := dmcrypt.ParseTable(bad); err == nil || strings.Contains(err.Error(), key[:8]) {
			t.Errorf("error %v: none, or with the key in it", err)
		}
	}
	// An unknown target may have a key anywhere.
	table, err = dmcrypt.ParseTable("0 8 integrity 8:1 0 32 J 1 internal_hash:hmac(sha256):" + key)
	if err != nil || strings.Contains(table.String(), key) {
		t.Errorf("got %s, %v", table, err)
	}
	if table.Equal(table) {
		t.Error("two unknown targets are taken for equal")
	}
}

func TestDiffNamesEachDifference(t *testing.T) {
	t.Parallel()
	for word, change := range map[string]func(*dmcrypt.Crypt){
		"length":    func(c *dmcrypt.Crypt) { c.Length = 8 },
		"cipher":    func(c *dmcrypt.Crypt) { c.Cipher = "aes-xts-plain64" },
		"key":       func(c *dmcrypt.Crypt) { c.Key.Description += "2" },
		"iv offset": func(c *dmcrypt.Crypt) { c.IVOffset = 8 },
		"device":    func(c *dmcrypt.Crypt) { c.Device.Minor++ },
		"offset on": func(c *dmcrypt.Crypt) { c.Offset = 8 },
		"options":   func(c *dmcrypt.Crypt) { c.Options = []string{"allow_discards"} },
	} {
		d := volume(nil).Diff(volume(change))
		if len(d) != 1 || !strings.HasPrefix(d[0], word) {
			t.Errorf("%s: got %q", word, d)
		}
	}
	if d := volume(nil).Diff(dmcrypt.Table{dmcrypt.Zero{Length: 4096}}); len(d) != 1 || !strings.Contains(d[0], "zero") {
		t.Errorf("another target: %q", d)
	}
	if d := volume(nil).Diff(nil); len(d) != 1 {
		t.Errorf("no table: %q", d)
	}
	if d := volume(nil).Diff(volume(nil)); d != nil {
		t.Errorf("the same: %q", d)
	}
}

func TestParseTableRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "\n", "0", "0 8", "a 8 zero", "0 -8 zero", "0 0 zero", "0 8 zero x", "00 8 zero", "0 99999999999999999999 zero",
		"0 8 linear", "0 8 linear /dev/sda 0", "0 8 linear 8:1 0 0", "0 8 linear 8:1", "0 8 linear 8 0", "0 8 linear 4096:0 0",
		"0 8 crypt a-b-c :32:logon:x: 0 8:1 0 1", "0 8 crypt a-b-c :32:logon:x:y 0 8:1 0 2 allow_discards",
		"0 8 crypt a-b-c :0:logon:x:y 0 8:1 0", "0 8 crypt a-b-c :99999:logon:x:y 0 8:1 0", "0 8 crypt a-b-c :32:logon 0 8:1 0",
		"0 8 crypt a-b-c - 0 8:1 0 1 nonsense", "0 8 flakey 8:1 0 1", "0 8 averyveryverylongname x", strings.Repeat("0 8 zero\n", 2000),
		strings.Repeat(" ", 1<<21),
	} {
		if table, err := dmcrypt.ParseTable(text); !errors.Is(err, dmcrypt.ErrInvalid) && !errors.Is(err, dmcrypt.ErrKeySize) {
			t.Errorf("%.60q gave %v, %v", text, table, err)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"data": true, "imx-data_1.2": true, strings.Repeat("n", 127): true, "a+b:c@d=e#f": true,
		strings.Repeat("n", 128): false, "": false, ".": false, "..": false, "control": false,
		"a b": false, "a/b": false, "a\x00b": false, `a\x20b`: false, "a%b": false, "é": false, "a\n": false,
	} {
		if err := dmcrypt.ValidateName(name); (err == nil) != good || err != nil && !errors.Is(err, dmcrypt.ErrInvalid) {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	const uuid = "0d2b5ff0-6a3a-4f1e-9a3b-3a6c5e2f7d10"
	if got, want := dmcrypt.VolumeUUID(uuid, "data"), "CRYPT-LUKS2-0d2b5ff06a3a4f1e9a3b3a6c5e2f7d10-data"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := dmcrypt.HelperUUID(uuid, "data-old"), "CRYPT-SUBDEV-0d2b5ff06a3a4f1e9a3b3a6c5e2f7d10-data-old"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// A volume's name has at most 47 bytes: its uuid fits.
	if err := dmcrypt.ValidateUUID(dmcrypt.HelperUUID(uuid, strings.Repeat("n", 47))); err != nil {
		t.Error(err)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, n := range []dmcrypt.Number{{Major: 8, Minor: 1}, {Major: 253}, {Major: 4095, Minor: 1<<20 - 1}, {Major: 259, Minor: 300}} {
		if got := devnum.Of(n.Dev()); got != n {
			t.Errorf("%s became %s", n, got)
		}
		if got, err := devnum.Parse(n.String()); err != nil || got != n {
			t.Errorf("%s was read as %s, %v", n, got, err)
		}
	}
}

func TestErrorsSayAllThereIs(t *testing.T) {
	t.Parallel()
	err := &dmcrypt.Error{
		Op: "load the table", Name: "data", Kind: dmcrypt.ErrNoCipher, Detail: "capi:tk(cbc(aes))-plain64",
		Err: errors.New("no such file or directory"), KernelLog: []string{"crypt: Error allocating crypto tfm (-ENOENT)"},
	}
	want := `load the table of mapping "data": this kernel does not have the cipher: capi:tk(cbc(aes))-plain64: no such file or directory (kernel: crypt: Error allocating crypto tfm (-ENOENT))`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if fault.CodeOf(err) != fault.CipherMissing || errors.Is(err, dmcrypt.ErrBusy) || errors.Is(err, dmcrypt.Kind("")) {
		t.Errorf("code %s", fault.CodeOf(err))
	}
	// The advice is different if no CAAM is needed.
	if err.Detail = "aes-xts-plain64"; fault.CodeOf(err) != fault.SoftCipherMissing {
		t.Errorf("code %s", fault.CodeOf(err))
	}
}

// What is parsed is written so that it is parsed with the same result, and no digit of a
// key in the clear gets through.
func FuzzParseTable(f *testing.F) {
	for _, s := range []string{
		volume(nil).String(),
		"0 8 linear 8:1 0\n8 8 error\n16 8 zero",
		"0 8 crypt aes-cbc-essiv:sha256 00112233 5 8:1 0 2 allow_discards iv_large_sectors",
		"0 8 crypt capi:cbc(aes)-plain :32:logon:probe:vol1 0 7:0 0 4 no_read_workqueue no_write_workqueue sector_size:4096 iv_large_sectors",
		"0 8 crypt x - 0 8:1 0", "0 8 flakey 8:1 0 1 2 1 drop_writes", "0 8 verity 1 8:1 8:2",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := dmcrypt.ParseTable(text)
		if err != nil {
			return
		}
		written := table.String()
		again, err := dmcrypt.ParseTable(written)
		if err != nil || again.String() != written {
			t.Fatalf("%q was written as %q and read as %q, %v", text, written, again, err)
		}
		_ = table.Validate() // must not panic
		_ = table.Diff(again)
	})
}
