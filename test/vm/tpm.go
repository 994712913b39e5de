// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// TPM is a TPM 2.0, simulated by swtpm. It keeps its state from one machine to the
// next. Each TPM is a different chip.
type TPM struct {
	Dir string // on the host
}

// TPMPrimary is the handle of the persistent primary key that every TPM here has, as a
// factory would leave it. New trusted keys name it as keyhandle.
const TPMPrimary uint32 = 0x81000001

// tpmSocket is the control socket in the machine's folder.
const tpmSocket = "tpm"

// NewTPM makes a TPM with a primary key at TPMPrimary. It exists until the test ends.
func NewTPM(t TB) *TPM {
	t.Helper()
	tpm := &TPM{Dir: t.TempDir()}
	if err := tpm.provision(); err != nil {
		t.Fatalf("vm: new TPM: %v", err)
	}
	return tpm
}

// start switches the TPM on. QEMU connects to the socket.
func (tpm *TPM) start(socket string) (*child, error) {
	return tpm.swtpm(socket, "--ctrl", "type=unixio,path="+socket)
}

// swtpm starts the program and waits until it listens on the socket. The program ends
// when its connection closes.
func (tpm *TPM) swtpm(socket string, args ...string) (*child, error) {
	c := &child{ended: make(chan struct{})}
	c.cmd = exec.Command("swtpm", append([]string{"socket", "--tpm2", "--terminate", "--tpmstate", "dir=" + tpm.Dir}, args...)...)
	if err := c.start(); err != nil {
		return nil, err
	}
	limit := time.After(time.Minute)
	for {
		// Do not test by connecting: it serves one client and then ends.
		listens, err := listening(socket)
		if err != nil {
			c.kill()
			return nil, err
		}
		if listens {
			return c, nil
		}
		select {
		case <-c.ended:
			return nil, fmt.Errorf("swtpm: %w: %s", c.err, c.output.String())
		case <-limit:
			c.kill()
			return nil, fmt.Errorf("swtpm does not listen: %s", c.output.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// listening reports whether a program listens on the Unix socket. The file exists from
// bind on, but connections are refused until listen. The kernel's list in
// /proc/net/unix (protocols, flags, type, state, inode, path) distinguishes the two.
func listening(socket string) (bool, error) {
	const acceptsConnections = 1 << 16 // __SO_ACCEPTCON
	list, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[7] != socket {
			continue
		}
		flags, err := strconv.ParseUint(fields[3], 16, 32)
		if err != nil {
			return false, fmt.Errorf("/proc/net/unix: %w", err)
		}
		if flags&acceptsConnections != 0 {
			return true, nil
		}
	}
	return false, nil
}

// provision creates the primary key of the TCG's storage template (ECC P-256) and
// makes it persistent.
func (tpm *TPM) provision() error {
	// Not in the test's own folder: the path of a socket is limited to 107 characters.
	dir, err := os.MkdirTemp("", "tpm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server := filepath.Join(dir, "server")
	p, err := tpm.swtpm(server, "--server", "type=unixio,path="+server,
		"--ctrl", "type=unixio,path="+filepath.Join(dir, "ctrl"), "--flags", "not-need-init,startup-clear")
	if err != nil {
		return err
	}
	defer p.kill()
	conn, err := net.Dial("unix", server)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	const owner = 0x40000001
	public := marshal(
		uint16(0x0023), uint16(0x000b), // an ECC key, named by SHA-256
		uint32(0x00030472), uint16(0), // a storage key without a policy, see TPMA_OBJECT
		uint16(0x0006), uint16(128), uint16(0x0043), // protects with AES-128-CFB
		uint16(0x0010), uint16(0x0003), uint16(0x0010), // no scheme, P-256, no KDF
		uint16(0), uint16(0),
	)
	created, err := tpmCommand(conn, 0x131, marshal(uint32(owner)), // TPM2_CreatePrimary
		marshal(uint16(4), uint32(0), uint16(len(public)), public, uint16(0), uint32(0)))
	if err != nil {
		return err
	}
	if len(created) < 4 {
		return errors.New("TPM2_CreatePrimary gave no handle")
	}
	_, err = tpmCommand(conn, 0x120, marshal(uint32(owner), created[:4]), marshal(TPMPrimary)) // TPM2_EvictControl
	return err
}

// tpmCommand sends the TPM a command authorised by an empty password, and returns the
// answer without its header.
func tpmCommand(conn io.ReadWriter, code uint32, handles, parameters []byte) ([]byte, error) {
	authorisation := marshal(uint32(9), uint32(0x40000009), uint16(0), uint8(0), uint16(0))
	size := 10 + len(handles) + len(authorisation) + len(parameters)
	command := marshal(uint16(0x8002), uint32(size), code, handles, authorisation, parameters)
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	answer := make([]byte, 4096)
	n, err := io.ReadAtLeast(conn, answer, 10)
	if err != nil {
		return nil, fmt.Errorf("TPM command %#x: %w", code, err)
	}
	if rc := binary.BigEndian.Uint32(answer[6:]); rc != 0 {
		return nil, fmt.Errorf("TPM command %#x: error %#x", code, rc)
	}
	return answer[10:n], nil
}

// marshal concatenates integers and bytes in the TPM's encoding.
func marshal(parts ...any) []byte {
	var b bytes.Buffer
	for _, part := range parts {
		// Writing to a buffer cannot fail, and every type passed here can be encoded.
		_ = binary.Write(&b, binary.BigEndian, part)
	}
	return b.Bytes()
}
