// SPDX-License-Identifier: Apache-2.0

package keysource

// Trust sources: what seals a trusted key.
const (
	TrustCAAM = "caam"
	TrustDCP  = "dcp"
	TrustTEE  = "tee"
	TrustTPM  = "tpm"
)

// Trusts lists them.
func Trusts() []string { return []string{TrustCAAM, TrustDCP, TrustTEE, TrustTPM} }

// ProtectedSize is the length of what the kernel has as a protected key, in bytes: a
// header of 4 and the blob of the key of 32, opened by the CAAM for each request.
const ProtectedSize = 4 + 32 + 48

// maxTrustedBlob is the kernel's MAX_BLOB_SIZE in bytes.
const maxTrustedBlob = 512

// TrustOf is the trust source that sealed a blob, by its form alone; empty for a blob
// of none. keySize is the plain key's in bytes. (Linux 6.12, security/keys/trusted-keys:
// blob of the CAAM n+48 bytes; of the DCP n+53, of version 1; of the TEE n+33, its
// first byte 0; of the TPM a DER sequence.)
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
