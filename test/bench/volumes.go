// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"imxcrypt/test/vm"
)

// volume is one of the machine's, and what the recipe and the floor need to
// open it too.
type volume struct {
	name, device, target, blob string
	sectors, table, offset     string
}

// configuration of n volumes v0, v1, ….
func configuration(n int) string {
	var b strings.Builder
	b.WriteString("volumes:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: v%d, device: /dev/vd%c, mount: /m/v%d}\n", i, 'a'+i, i)
	}
	return b.String()
}

// provision makes the volumes and learns their blobs and tables.
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
		v.sectors, v.offset = words[1], words[7]
		key := strings.Split(words[4], ":")
		words[4] = strings.Join(key[:3], ":") + ":bench:" + v.name
		v.table = strings.Join(words[3:], " ")
		m.Put(v.blob, blobOf(h, m, v.device))
		list = append(list, v)
	}
	return list
}

// blobOf reads the blob out of a LUKS2 header: its JSON begins behind the 4 KiB
// of the binary header and ends with a NUL.
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

func recipe(list []volume) []string {
	args := []string{"recipe"}
	for _, v := range list {
		args = append(args, v.name, v.blob, v.device, v.offset, v.table, v.target, v.sectors)
	}
	return args
}

func floor(list []volume) []string {
	args := []string{"floor"}
	for _, v := range list {
		args = append(args, v.name, v.blob, v.sectors, v.table, v.target)
	}
	return args
}

func program(name string, list []volume) []string {
	args := []string{name, "boot"}
	for _, v := range list {
		args = append(args, v.name)
	}
	return args
}

// closeAll takes everything down, whoever made it.
func closeAll(m *vm.Machine) {
	m.MustSh(`for d in /m/*; do umount "$d" 2>/dev/null || :; done
		dmsetup remove_all; rm -f /dev/mapper/v*; keyctl clear @us`)
}
