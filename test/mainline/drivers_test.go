// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packageHashes returns the hashes of the files in Debian's package of the kernel's
// source, by their path there.
func packageHashes(t *testing.T, source string) map[string]string {
	t.Helper()
	list, err := os.Open(filepath.Join(source, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	hashes := map[string]string{}
	for lines := bufio.NewScanner(list); lines.Scan(); {
		hash, file, _ := strings.Cut(lines.Text(), "  ")
		hashes[strings.TrimPrefix(file, "./")] = hash
	}
	return hashes
}

func hashOf(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// changedForProtectedKeys returns the files with a changed line: their path in the
// build folder and in the package. test/mainline/build says which lines.
func changedForProtectedKeys() map[string]string {
	return map[string]string{
		"md-protected/dm-crypt.c":   "drivers/md/dm-crypt.c",
		"caam-protected/blob_gen.c": "drivers/crypto/caam/blob_gen.c",
	}
}

// linesThatDiffer counts the lines that differ between two files of the same length.
func linesThatDiffer(t *testing.T, a, b string) (n int) {
	t.Helper()
	var lines [2][]string
	for i, file := range []string{a, b} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = strings.Split(string(data), "\n")
	}
	if len(lines[0]) != len(lines[1]) {
		t.Fatalf("%s has %d lines, %s %d", a, len(lines[0]), b, len(lines[1]))
	}
	for i := range lines[0] {
		if lines[0][i] != lines[1][i] {
			n++
		}
	}
	return n
}

// The modules are built from Debian's source of the kernel without a changed line, and
// from nothing else, except for the two lines that protected keys need.
func TestTheDriversAreUnchanged(t *testing.T) {
	t.Parallel()
	t.Run("6.12", func(t *testing.T) { driversAreUnchanged(t, "6.12-cloud-arm64", "mainline") })
	t.Run("7.x", func(t *testing.T) {
		soakOnly(t)
		driversAreUnchanged(t, "7.x-cloud-arm64", "mainline-7.x")
	})
}

// driversAreUnchanged checks the drivers of a kernel and its folder below build and
// build/debian.
func driversAreUnchanged(t *testing.T, flavour, folder string) {
	t.Parallel()
	if out, err := exec.Command("./build", "../../build", flavour).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	source, obj := filepath.Join("../../build/debian", folder), filepath.Join("../../build", folder, "obj")
	hashes := packageHashes(t, source)
	byHash := map[string]string{}
	for file, hash := range hashes {
		byHash[hash] = file
	}
	built := map[string]bool{} // by their path in the package
	err := filepath.WalkDir(obj, func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "keygen" {
			return filepath.SkipDir // belongs to test/simcaam
		}
		if err != nil || d.IsDir() || !slices.Contains([]string{".c", ".h"}, filepath.Ext(file)) {
			return err
		}
		name := filepath.Base(file)
		// Written by the kernel's build system: by modpost and the ASN.1 compiler.
		if strings.HasSuffix(name, ".mod.c") || name == ".module-common.c" || strings.HasPrefix(name, "tpm2key.asn1.") {
			return nil
		}
		if of, ok := byHash[hashOf(t, file)]; ok && filepath.Base(of) == name {
			built[of] = true
		} else if of := changedForProtectedKeys()[strings.TrimPrefix(file, obj+"/")]; of != "" {
			if n := linesThatDiffer(t, file, filepath.Join(source, "linux", of)); n != 1 {
				t.Errorf("%s differs from the package's in %d lines, expected one", file, n)
			}
		} else {
			t.Errorf("%s is no file of the package", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{
		"drivers/crypto/caam/blob_gen.c", "drivers/crypto/caam/ctrl.c", "drivers/crypto/caam/jr.c", "drivers/crypto/mxs-dcp.c",
		"security/keys/trusted-keys/trusted_core.c", "security/keys/trusted-keys/trusted_caam.c",
		"security/keys/trusted-keys/trusted_dcp.c", "security/keys/trusted-keys/trusted_tpm2.c", "security/keys/trusted-keys/trusted_tee.c",
		"drivers/md/dm-crypt.c",
	} {
		if !built[file] {
			t.Errorf("%s of the package is not among what was built", file)
		}
	}
	t.Logf("%d files, as in the package", len(built))

	// The list is made when the package is unpacked. make soak unpacks it again,
	// because that takes eight seconds of processor time.
	t.Run("unpacked again", func(t *testing.T) {
		if os.Getenv("IMXCRYPT_SOAK") == "" {
			t.Skip("NOT TESTED: the list of the files against the package, by make soak only (IMXCRYPT_SOAK=1)")
		}
		again := t.TempDir()
		out, err := exec.Command("sh", "-ec", `dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
			xz -dc | tar -x -C "$2" --strip-components=1 --wildcards 'linux-source-*/drivers' 'linux-source-*/security' 'linux-source-*/crypto' 'linux-source-*/lib'`,
			"sh", filepath.Join(source, "package.deb"), again).CombinedOutput()
		if err != nil {
			t.Fatalf("unpack the package: %v\n%s", err, out)
		}
		for file := range built {
			if got := hashOf(t, filepath.Join(again, file)); got != hashes[file] {
				t.Errorf("%s: SHA256SUMS says %s, in the package it is %s", file, hashes[file], got)
			}
		}
	})
}
