// SPDX-License-Identifier: Apache-2.0

// Hello is the least a Go program can be: what its runtime costs to start.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString("hello\n") }
