// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/test/vm"
	"imxcrypt/test/vm/initramfs"
)

// swupdatePackages are SWUpdate and its libraries. They are not installed on this host,
// because the installed package would start a server.
var swupdatePackages = strings.Fields(`swupdate libacl1 libarchive13 libb2-1 libblkid1 libbrotli1 libbz2-1.0 libc6 libcap2 libcom-err2 libconfig9
	libcurl4 libext2fs2 libfdisk1 libffi8 libgcc-s1 libgcrypt20 libgmp10 libgnutls30 libgomp1 libgpg-error0 libgpiod2 libgssapi-krb5-2
	libhogweed6 libicu72 libidn2-0 libjson-c5 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 libldap-2.5-0 liblua5.3-0 liblz4-1
	liblzma5 libnettle8 libnghttp2-14 libp11-kit0 libpsl5 librsync2 librtmp1 libsasl2-2 libssh2-1 libssl3 libstdc++6 libsystemd0
	libtasn1-6 libubootenv0.1 libunistring2 liburiparser1 libuuid1 libwebsockets17 libxml2 libzck1 libzstd1 zlib1g`)

// swupdateMarker is the content of the image that SWUpdate installs.
const swupdateMarker = "what SWUpdate wrote, which nobody finds on the device"

// makeSWUpdate makes update.swu in a folder, as in docs/updates.md, and puts what
// SWUpdate needs below swupdate/.
func makeSWUpdate(t *testing.T, keys, page, dir string) {
	t.Helper()
	var image bytes.Buffer
	z := gzip.NewWriter(&image)
	if _, err := z.Write(bytes.Repeat([]byte(swupdateMarker+"\n"), 1000)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const name = `filename = "rootfs.ext4.gz";`
	description := strings.ReplaceAll(block(t, page, "# sw-description"), name, fmt.Sprintf(`%s sha256 = "%x";`, name, sha256.Sum256(image.Bytes())))
	write := func(path string, data []byte) {
		t.Helper()
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(keys, "sw-description"), []byte(description))
	run(t, keys, "openssl", "cms", "-sign", "-in", "sw-description", "-out", "sw-description.sig", "-signer", "certificate.pem", "-inkey", "key.pem",
		"-outform", "DER", "-nosmimecap", "-binary")
	signature, err := os.ReadFile(filepath.Join(keys, "sw-description.sig"))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := initramfs.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{"sw-description", []byte(description)}, {"sw-description.sig", signature}, {"rootfs.ext4.gz", image.Bytes()}} {
		if err := w.File(f.name, 0o644, f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "update.swu"), archive.Bytes())
	write(filepath.Join(dir, "swupdate.cfg"), []byte(block(t, page, "# /etc/swupdate.cfg")))

	tree, from := initramfs.Tree{}, vm.Packages(t, vm.AMD64, swupdatePackages...)
	err = from.AddTo(tree, "swupdate")
	if err == nil {
		err = from.Library(tree, "libubootenv.so.0")
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range tree {
		write(filepath.Join(dir, "swupdate", path.Base(name)), e.Data)
	}
}

// swupdate installs an image with SWUpdate into the second slot, through its mapping.
func (b board) swupdate() {
	b.t.Helper()
	b.t.Log("SWUpdate installs: its preupdatecmd has opened the slot")
	b.MustSh(`cp /etc/rauc/keyring.pem /etc/swupdate.pem; echo 'our-board 1.0' >/etc/hwrevision`)
	// Its installer has a few seconds to start; otherwise nothing begins and nothing is
	// reported. On a busy host that is too short.
	for try := 1; ; try++ {
		r := b.Sh(`cd /updates/swupdate && ./ld-linux-x86-64.so.2 --library-path . ./swupdate -f ../swupdate.cfg -e stable,copy3 -i ../update.swu 2>&1`)
		b.t.Log(r)
		switch _, after, _ := strings.Cut(r.Stdout, "Software Update started"); {
		case r.Code == 0:
		case try < 30 && strings.Trim(after, " !\n") == "":
			continue
		default:
			b.t.Fatal("SWUpdate has failed")
		}
		break
	}
	b.expect("ls /dev/mapper; fw_printenv slot ustate", "control\ndata\nrootfs2\nrootfs3\nslot=3\nustate=1")
	b.expect("head -n 1 /dev/mapper/rootfs3", swupdateMarker)
	b.MustRun("imxcrypt", "lock", "rootfs3")
}
