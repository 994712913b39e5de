// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume/volumetest"
)

// Shared with the tests of the packages that use volumes.
var (
	slow         = crashtest.Slow
	every        = volumetest.Every
	newSpec      = volumetest.Spec
	newBoard     = volumetest.BoardOf
	powerCycle   = volumetest.PowerCycle
	must         = volumetest.Must
	refused      = volumetest.Refused
	put          = volumetest.Put
	get          = volumetest.Get
	rotationSpec = volumetest.Small
	rotationDisk = volumetest.SmallDisk
	filled       = volumetest.Filled
	fill         = volumetest.Fill
	scrawl       = volumetest.Write
	content      = volumetest.Content
	contentOf    = volumetest.ContentOf
	same         = volumetest.Same
	rotateUntil  = volumetest.RotateUntil
	detached     = volumetest.Detached
	devSource    = volumetest.DevSource
	changed      = volumetest.Changed
	ready        = volumetest.Ready
	mounted      = volumetest.Mounted
	plainExt4    = volumetest.PlainExt4
	plainDisk    = volumetest.PlainDisk
	inPlaceUntil = volumetest.InPlaceUntil
)

const (
	rotationHeader = 128 << 10
	rotationGap    = volumetest.SmallGap
	rotationData   = volumetest.SmallData
	rotationText   = volumetest.SmallText
	userData       = volumetest.UserData
	userText       = volumetest.UserText
)
