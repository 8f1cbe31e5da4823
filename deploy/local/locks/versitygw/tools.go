//go:build tools

// Package tools keeps what this recipe builds in go.mod, so that `go mod tidy` does not drop it.
package tools

import (
	_ "github.com/versity/versitygw/cmd/versitygw"
)
