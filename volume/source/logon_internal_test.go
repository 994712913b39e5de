// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/binary"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
)

// noKeyring fails the test when a key is put into it.
type noKeyring struct{ t *testing.T }

func (k noKeyring) WithLogonKey(string, []byte, func() error) error {
	k.t.Error("the key got into a keyring")
	return nil
}

func (k noKeyring) WithTrustedKey(string, string, func(func() ([]byte, error)) error) error {
	k.t.Error("the key got into a keyring")
	return nil
}

// A black key whose header does not fit its bytes overwrites kernel memory. So it is
// checked when it goes into the keyring, wherever it comes from.
func TestABlackKeyIsCheckedBeforeItGoesIntoAKeyring(t *testing.T) {
	t.Parallel()
	black, _, err := caamtest.RandomChip().Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	key := NewBlackKey(black, noKeyring{t}).(*logonKey)
	defer key.Wipe()
	binary.LittleEndian.PutUint32(key.payload[16:], 1024)
	err = key.Use("imxcrypt:uuid:1", func(dmcrypt.KeyRef) error {
		t.Error("the key was used")
		return nil
	})
	if fault.CodeOf(err) != fault.BlobDamaged {
		t.Errorf("%v (code %s)", err, fault.CodeOf(err))
	}
}
