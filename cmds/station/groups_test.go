package main

import (
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

func TestMistypedCommands(t *testing.T) {
	filestest.Groups(t, run)
}
