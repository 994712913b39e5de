// SPDX-License-Identifier: Apache-2.0

// The module below has only the system call numbers of these machines.
//go:build amd64 || 386 || arm

package keyring_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jsipprell/keyctl"
	"golang.org/x/sys/unix"

	"imxcrypt/keyring"
)

// ours returns what another reader of keyrings finds of keys with our prefix, from every
// keyring this thread has.
func ours(prefix string) ([]string, error) {
	var found []string
	for _, open := range []func() (keyctl.Keyring, error){
		keyctl.ThreadKeyring, keyctl.ProcessKeyring, keyctl.SessionKeyring, keyctl.UserSessionKeyring, keyctl.UserKeyring,
	} {
		ring, err := open()
		if errors.Is(err, unix.ENOKEY) {
			continue
		}
		if err != nil {
			return nil, err
		}
		keys, err := keyctl.ListKeyring(ring)
		if err != nil {
			return nil, err
		}
		for i := range keys {
			info, err := keys[i].Info()
			if err != nil && !errors.Is(err, unix.ENOKEY) && !errors.Is(err, unix.EKEYREVOKED) {
				return nil, err
			}
			if err == nil && strings.HasPrefix(info.Name, prefix) {
				found = append(found, info.Type+" "+info.Name)
			}
		}
	}
	return found, nil
}

func TestAnIndependentReaderSeesExactlyOneKeyAndThenNone(t *testing.T) {
	t.Parallel()
	needKeyrings(t)
	name := keyring.Describe("independent", 1)
	onOwnThread(t, func() {
		err := keyring.Ring{}.WithLogonKey(name, payload, func() error {
			during, err := ours("imxcrypt:independent")
			if err == nil && fmt.Sprint(during) != "[logon "+name+"]" {
				t.Errorf("during the callback: %v", during)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		after, err := ours("imxcrypt:independent")
		if err != nil || len(after) != 0 {
			t.Errorf("afterwards: %v, %v", after, err)
		}
	})
}
