// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/keyring"
	"imxcrypt/volume/spec"
)

// Choice is the source that auto stands for on this system.
type Choice struct {
	Source string
	// Why says what was found.
	Why string
}

// Choose finds the source for a volume with source auto that has no header yet: the CAAM
// if its driver answers, otherwise trusted keys if the kernel has a trust source. It
// makes no key and leaves nothing behind. If there is neither, the error is of code
// source-missing.
func (from Sources) Choose(s spec.Volume) (Choice, error) {
	var missing []error
	var reasons []string
	for _, source := range s.Chosen().Fitting() {
		why, err := from.works(source)
		if err == nil {
			return Choice{source, strings.Join(append(reasons, why), "; ")}, nil
		}
		missing = append(missing, fmt.Errorf("%s: %w", source, err))
		reasons = append(reasons, "source "+source+" does not work here ("+err.Error()+")")
	}
	// Not wrapped: the code of the first error would hide that there is another way.
	return Choice{}, fault.Newf(fault.SourceMissing, "nothing here seals keys: %s", strings.ReplaceAll(errors.Join(missing...).Error(), "\n", "; "))
}

// works returns the evidence that a source works, without making a key.
func (from Sources) works(source string) (string, error) {
	if source == spec.SourceCAAM {
		if _, err := from.Chip(); err != nil {
			return "", err
		}
		return "the CAAM's driver is there", nil
	}
	switch there, err := trustSource(from.Keyring); {
	case err != nil:
		return "", err
	case !there:
		return "", explainMake(unix.ENODEV)
	}
	return "the kernel has a trust source", nil
}

// TrustSource reports whether the running kernel has a trust source. It makes no key.
func TrustSource() (bool, error) { return trustSource(keyring.Ring{}) }

// trustSource asks with a command that no trust source knows. A trust source answers
// EINVAL; ENODEV means that there is none (Linux 6.12, security/keys/trusted-keys).
func trustSource(ring Keyring) (bool, error) {
	err := ring.WithTrustedKey(makingDescription, "probe", func(func() ([]byte, error)) error { return nil })
	switch {
	case errors.Is(err, unix.EINVAL):
		return true, nil
	case errors.Is(err, unix.ENODEV):
		return false, nil
	case err == nil:
		err = errors.New("the kernel made a key of the command probe")
	}
	return false, err
}
