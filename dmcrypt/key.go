// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"imxcrypt/internal/devnum"
)

// KeyRef names a key in the kernel's keyring as dm-crypt does:
// ":64:logon:imxcrypt:<uuid>:1". There is no way to pass a key itself to this package.
//
// The zero KeyRef is the "-" of a table without a key.
type KeyRef struct {
	// Size is the payload's length in bytes, exactly.
	Size int
	// Type is the key's type: logon, trusted or encrypted. Programs can read back user
	// keys, so these are not accepted for a table of ours.
	Type string
	// Description is the key's name, without white space.
	Description string
	// InTheClear marks a key given as hexadecimal digits in a table that someone else
	// loaded. Only its Size is kept. It prints as zeros, as in dmsetup without
	// --showkeys, and such a table cannot be loaded.
	InTheClear bool
}

// maxKey is far above any key (a 64-byte red key is 96 bytes as the largest black key,
// 32-byte protected keys are 84); it limits arithmetic with sizes that come from outside.
const maxKey = 4096

var keyTypes = []string{"logon", "trusted", "encrypted"}

// String returns dm-crypt's notation.
func (k KeyRef) String() string {
	switch {
	case k.InTheClear:
		return strings.Repeat("0", 2*k.Size)
	case k == KeyRef{}:
		return "-"
	}
	return ":" + strconv.Itoa(k.Size) + ":" + k.Type + ":" + k.Description
}

// parseKey parses a key field. It inspects a key in the clear without copying it: the key
// must not become a string that stays in memory.
func parseKey(field []byte) (KeyRef, error) {
	if len(field) == 1 && field[0] == '-' {
		return KeyRef{}, nil
	}
	if len(field) == 0 || field[0] != ':' {
		for _, c := range field {
			if !isHex(c) {
				return KeyRef{}, fmt.Errorf("key: neither a reference nor hexadecimal digits")
			}
		}
		if len(field)%2 != 0 || len(field) == 0 || len(field)/2 > maxKey {
			return KeyRef{}, fmt.Errorf("key: %d hexadecimal digits", len(field))
		}
		return KeyRef{Size: len(field) / 2, InTheClear: true}, nil
	}
	size, rest, ok := strings.Cut(string(field[1:]), ":")
	typ, description, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return KeyRef{}, fmt.Errorf("key: a reference is :size:type:description")
	}
	n, err := devnum.ParseDecimal(size, maxKey)
	if err != nil {
		return KeyRef{}, fmt.Errorf("key size: %w", err)
	}
	k := KeyRef{Size: int(n), Type: typ, Description: description}
	if n == 0 || typ == "" || description == "" || !printable(typ) || !printable(description) {
		return KeyRef{}, fmt.Errorf("key reference %q: size, type or description is missing", k.String())
	}
	return k, nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// maxDescription limits a key's description. The kernel allows a page; a table line
// should be shorter. Our descriptions have 50 bytes.
const maxDescription = 1024

func (k KeyRef) validate(c CipherSpec) error {
	if k.InTheClear {
		return fmt.Errorf("key: a key in the clear is not accepted")
	}
	if k == (KeyRef{}) {
		return fmt.Errorf("key: no key given")
	}
	if k.Size < 1 || k.Size > maxKey {
		return fmt.Errorf("key %q: size %d", k.String(), k.Size)
	}
	if !slices.Contains(keyTypes, k.Type) {
		return fmt.Errorf("key %q: type %q is not one of %s", k.String(), k.Type, strings.Join(keyTypes, ", "))
	}
	if !printable(k.Description) || k.Description == "" || len(k.Description) > maxDescription {
		return fmt.Errorf("key description %q: empty, too long, or with white space or backslash", clip(k.Description))
	}
	if prefix, _, ok := strings.Cut(k.Description, ":"); k.Type == "logon" && (!ok || prefix == "") {
		return fmt.Errorf("key description %q: a logon key's needs a prefix and a colon", k.Description)
	}
	if sizes := c.keySizes(); sizes != nil && !slices.Contains(sizes, k.Size) {
		return &sizeError{fmt.Sprintf("key %q: %s takes keys of %s bytes", k.String(), c.Algorithm, joinInts(sizes))}
	}
	return nil
}

// sizeError distinguishes a wrong key size from other mistakes in a table.
type sizeError struct{ text string }

func (e *sizeError) Error() string { return e.text }

func joinInts(n []int) string {
	s := make([]string, len(n))
	for i, v := range n {
		s[i] = strconv.Itoa(v)
	}
	return strings.Join(s, ", ")
}
