// SPDX-License-Identifier: Apache-2.0

// Package configs implements the configuration: its types, reading, merging and
// validating its files, and examples that are known to load.
//
// The configuration is authoritative about what a volume may be, because the header on
// the device is not authenticated. So it is read strictly: an unknown field, a value of
// the wrong type, a number without its unit or a duplicate name is an error that says
// where it is, what is wrong and what to write instead. Nothing is guessed, and nothing
// comes from the environment or from anywhere but the file and its drop-ins (layers.go).
// All errors are reported at once.
//
// A file that loads today loads with later versions too: fields are added, never renamed,
// and defaults that end up on a disk do not change.
package configs
