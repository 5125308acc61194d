package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landfall-project/landfall/pkg/files/filestest"
)

// Each command, given each kind of file in each place, takes what it is for, and
// of all else says what is wrong and what to do.
func TestWrongFiles(t *testing.T) {
	p := newPlant(t)
	key, _ := p.escrow(filestest.Device)
	key.Wipe()
	set := filestest.New(t, p.dir, map[string][]byte{"slice.note": p.file("../" + filestest.Device + ".note")})
	set.Copy(filepath.Join(p.dir, "agents", "alice"), "away/agents/alice") // an agent on another machine
	member := filepath.Join(filestest.Region(t), "members", "ks1")
	set.Copy(member, "ks1")
	run := func(args []string, out *strings.Builder) error {
		args = append([]string{"--region", "away", "--as", "alice", "--url", "https://" + p.operators}, args...)
		err := run(context.Background(), args, strings.NewReader(""), out, out)
		if errors.Is(err, errDark) {
			t.Errorf("kekctl %v: exit status %d", args, exitDark)
		}
		return err
	}
	const (
		initRegion = "init new --name r8 --member ks1=https://10.0.0.1:7443 --agent alice=operator"
		agent      = "away/agents/alice/"
		shipment   = " --shipment 00000000000000000000000000000000"
		written    = "`kekctl init` wrote"
	)
	set.Sweep(run, []filestest.Case{
		{Command: "slice add %", Takes: "slice.note", Says: "`snapshot sign`"},
		{Command: "manifest add %", Takes: "image.manifest", Says: "`imagectl sign`"},
		{Command: "manifest add image.manifest --policy %", Takes: "image.policy", Says: "`imagectl sign`"},
		// The region was not shipped, so that the member takes no statement.
		{Command: "receive submit %", Skip: "received.note", Says: "`kekctl receive sign`"},
		{Command: "audit verify %", Takes: "audit.jsonl", Says: "`kekctl audit show --json`"},
		{Command: initRegion + " --ek-roots %", Takes: "ca.pem agent.crt tls.crt", Says: "certificates in PEM"},
		{Command: initRegion + " --ek-roots ca.pem --ek-delivery %", Takes: "delivery.txt", Says: "`seal provision`"},
		{Command: strings.Replace(initRegion, "new", "%", 1) + " --ek-cert record", Takes: "missing", Says: "new or empty"},
		{Command: "restore % --config ks1/kekd.json --without-log", Skip: "store.db", Says: "`kekctl backup`"},
		{Command: "restore store.db --config %", Skip: "kekd.json", Says: "`kekctl init`"},
		{Command: "device add r07-u50 --token-file %", Takes: "missing", Says: "--force"},
		{Command: "backup %", Takes: "missing", Says: "--force"},
		{Command: "receive sign %" + shipment, Takes: "missing", Says: "--force"},
		{Command: "--region % device list", Says: "--region DIR"},
		{Command: "device list", Place: agent + "agent.json", Takes: "agent.json", Says: written},
		{Command: "device list", Place: agent + "ca.pem", Takes: "ca.pem", Says: written},
		{Command: "device list", Place: agent + "agent.crt", Takes: "agent.crt", Says: "put back"},
		{Command: "device list", Place: agent + "agent.key", Takes: "agent.key", Says: "put back"},
		{Command: "receive sign out" + shipment, Place: agent + "note.key", Takes: "note.key", Says: written},
	})
}

// A disk that somebody names in the place of a document is not read to its end.
func TestLongFiles(t *testing.T) {
	region := filestest.Region(t)
	t.Chdir(t.TempDir())
	if err := errors.Join(os.WriteFile("long", nil, 0o600), os.Truncate("long", 80<<20)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"slice add long", "manifest add long", "receive submit long", "init new --name r8 --member ks1=https://10.0.0.1:7443 --agent alice=operator --ek-roots long"} {
		var out strings.Builder
		err := run(context.Background(), append([]string{"--region", region}, strings.Fields(line)...), strings.NewReader(""), &out, &out)
		if err == nil || !strings.Contains(err.Error(), "long has more than") {
			t.Errorf("kekctl %s: %v", line, err)
		}
	}
}
