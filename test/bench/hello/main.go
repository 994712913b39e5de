// SPDX-License-Identifier: Apache-2.0

// Hello is the smallest Go program. It shows what starting the Go runtime costs.
package main

import "os"

func main() { _, _ = os.Stdout.WriteString("hello\n") }
