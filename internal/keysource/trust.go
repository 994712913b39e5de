// SPDX-License-Identifier: Apache-2.0

package keysource

// Trust sources: what seals a trusted key.
const (
	TrustCAAM = "caam"
	TrustDCP  = "dcp"
	TrustTEE  = "tee"
	TrustTPM  = "tpm"
)

// Trusts lists the trust sources.
func Trusts() []string { return []string{TrustCAAM, TrustDCP, TrustTEE, TrustTPM} }

// ProtectedSize is the length in bytes of what the kernel has as a protected key: a
// header of 4 bytes and the blob of the 32-byte key, which the CAAM opens for each
// request.
const ProtectedSize = 4 + 32 + 48

// maxTrustedBlob is the kernel's MAX_BLOB_SIZE in bytes.
const maxTrustedBlob = 512

// TrustOf returns the trust source that sealed a blob, from its form alone; it is empty
// if none did. keySize is the size of the plain key in bytes. (Linux 6.12,
// security/keys/trusted-keys: a CAAM blob has n+48 bytes; a DCP blob n+53, version 1; a
// TEE blob n+33, first byte 0; a TPM blob is a DER sequence.)
func TrustOf(blob []byte, keySize int) string {
	switch {
	case len(blob) == 0 || len(blob) > maxTrustedBlob:
		return ""
	case len(blob) == keySize+48:
		return TrustCAAM
	case len(blob) == keySize+53 && blob[0] == 1:
		return TrustDCP
	case len(blob) == keySize+33 && blob[0] == 0:
		return TrustTEE
	case len(blob) > keySize+64 && blob[0] == 0x30:
		return TrustTPM
	}
	return ""
}
