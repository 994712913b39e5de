// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"imxcrypt/test/vm"
)

// volume is one of the machine's volumes, with what the recipe and the floor need to
// open it.
type volume struct {
	name, device, target, blob string
	sectors, table             string
}

// configuration returns a configuration with n volumes v0, v1, … with keys of a source.
func configuration(n int, source string) string {
	var b strings.Builder
	b.WriteString("volumes:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: v%d, device: /dev/vd%c, source: %s, mount: /m/v%d}\n", i, 'a'+i, source, i)
	}
	return b.String()
}

// provision makes the volumes and returns their blobs and tables.
func provision(h *host, m *vm.Machine, n int) []volume {
	var list []volume
	for i := range n {
		v := volume{name: fmt.Sprintf("v%d", i), device: fmt.Sprintf("/dev/vd%c", 'a'+i)}
		v.target, v.blob = "/m/"+v.name, "/root/"+v.name+".bb"
		m.MustRun("mkdir", "-p", v.target)
		m.MustRun("imxcrypt", "provision", v.name)
		// "0 SECTORS crypt CIPHER :SIZE:logon:DESCRIPTION IV DEVICE OFFSET …"
		words := strings.Fields(m.MustRun("dmsetup", "table", "--showkeys", v.name))
		if len(words) < 8 {
			h.Fatalf("table of %s: %q", v.name, words)
		}
		v.sectors = words[1]
		key := strings.Split(words[4], ":")
		words[4] = strings.Join(key[:3], ":") + ":bench:" + v.name
		v.table = strings.Join(words[3:], " ")
		blob := blobOf(h, m, v.device)
		if key[2] == sourceTrusted { // in the format of keyctl pipe
			blob = []byte(hex.EncodeToString(blob))
		}
		m.Put(v.blob, blob)
		list = append(list, v)
	}
	return list
}

// blobOf reads the blob from a LUKS2 header. The JSON begins after the 4 KiB of the
// binary header and ends with a NUL.
func blobOf(h *host, m *vm.Machine, device string) []byte {
	text := []byte(m.MustSh("dd if=" + device + " bs=4096 skip=1 count=3 2>/dev/null | tr -d '\\000'"))
	var header struct {
		Tokens map[string]struct{ Blob string }
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&header); err != nil {
		h.Fatalf("header of %s: %v", device, err)
	}
	for _, t := range header.Tokens {
		blob, err := base64.StdEncoding.DecodeString(t.Blob)
		if err != nil {
			h.Fatalf("blob of %s: %v", device, err)
		}
		return blob
	}
	h.Fatalf("the header of %s has no token", device)
	return nil
}

// byHand returns a command line of the recipe or the floor, with everything that the
// program finds by itself.
func byHand(name string, list []volume) []string {
	args := []string{name}
	for _, v := range list {
		args = append(args, v.name, v.blob, v.sectors, v.table, v.target)
	}
	return args
}

func program(list []volume, args ...string) []string {
	for _, v := range list {
		args = append(args, v.name)
	}
	return args
}

// closeAll closes everything, whatever opened it.
func closeAll(m *vm.Machine) {
	m.MustSh(`for d in /m/*; do umount "$d" 2>/dev/null || :; done
		dmsetup remove_all; rm -f /dev/mapper/v* /run/v*.key; keyctl clear @us`)
}
