// SPDX-License-Identifier: Apache-2.0

package configs

import "strings"

// nearest returns the word that was probably meant, or "" if none is close.
func nearest(word string, among []string) string {
	// Longer words are not typos, and the distance takes quadratic time.
	if len(word) > 48 {
		return ""
	}
	best, least := "", 1+max(1, len(word)/3)
	for _, w := range among {
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d < least {
			best, least = w, d
		}
	}
	return best
}

// didYouMean returns a remedy that names the nearest word, or all valid words.
func didYouMean(word string, among []string) string {
	if near := nearest(word, among); near != "" {
		return "did you mean " + near + "?"
	}
	return "write " + oneOf(among)
}

// oneOf joins words as "a, b or c".
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// distance returns the number of insertions, deletions, substitutions and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	before, last, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(last[j]+1, next[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}
