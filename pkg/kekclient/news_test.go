package kekclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

// A member without a newer slice does not speak for the others, and one that
// refuses or lies does not hide one that has it.
func TestNewsOfSeveralMembers(t *testing.T) {
	ca := newAuthority(t)
	good := &tls.Config{Certificates: []tls.Certificate{ca.leaf(func(*x509.Certificate) {})}}
	member := func(text string) snapshot.Member {
		return snapshot.Member{ID: "ks1", URL: serve(t, good, answers(text))}
	}
	answer := func(slice []byte) string {
		body, err := json.Marshal(&kekproto.Response{Protocol: kekproto.Version, Slice: slice})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	slice := bytes.Repeat([]byte("a slice"), 290_000) // 2 MiB, as the largest
	has, none, refuses := member(answer(slice)), member(answer(nil)), member(refusalText(report.KeySuspended))
	long := member(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", kekproto.OpSlice.AnswerLimit()+1))
	dead := snapshot.Member{ID: "ks1", URL: "https://127.0.0.1:1"}
	for name, test := range map[string]struct {
		members []snapshot.Member
		news    bool
		want    report.Code
	}{
		"news":                      {[]snapshot.Member{has}, true, ""},
		"one lags behind":           {[]snapshot.Member{none, has}, true, ""},
		"one refuses":               {[]snapshot.Member{refuses, has}, true, ""},
		"one sends too much":        {[]snapshot.Member{long, dead, has}, true, ""},
		"none":                      {[]snapshot.Member{none, none}, false, ""},
		"none, and one refuses":     {[]snapshot.Member{refuses, none}, false, ""},
		"none, and the other dead":  {[]snapshot.Member{none, dead}, false, ""},
		"refused":                   {[]snapshot.Member{dead, refuses}, false, report.KeySuspended},
		"dead":                      {[]snapshot.Member{dead}, false, report.KeyUnreachable},
		"too much is not an answer": {[]snapshot.Member{long}, false, report.KeyUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Client{Members: test.members, CA: ca.cert.Raw, Device: "r01-u01"}
			got, err := c.News(context.Background(), quoter(nil), 1, []byte(`{"type":"x"}`))
			var problem *report.Problem
			if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &problem) || problem.Code != test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if (len(got) > 0) != test.news || test.news && !bytes.Equal(got, slice) {
				t.Errorf("a slice of %d bytes", len(got))
			}
		})
	}
	// With Open all are asked: who lies or lags behind keeps nothing away.
	lies, older, newer := member(answer([]byte("garbage"))), member(answer([]byte("2"))), member(answer([]byte("3")))
	for name, test := range map[string]struct {
		members []snapshot.Member
		want    string
	}{
		"the first lies":           {[]snapshot.Member{lies, newer}, "3"},
		"the first lags behind":    {[]snapshot.Member{older, newer}, "3"},
		"the second lags behind":   {[]snapshot.Member{newer, older}, "3"},
		"all that answer lie":      {[]snapshot.Member{lies, dead}, ""},
		"no newer than in use":     {[]snapshot.Member{member(answer([]byte("1")))}, ""},
		"one has, one is dead":     {[]snapshot.Member{older, dead}, "2"},
		"one has, one has nothing": {[]snapshot.Member{older, none}, "2"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Client{Members: test.members, CA: ca.cert.Raw, Device: "r01-u01",
				Open: func(note []byte) (uint64, error) { return strconv.ParseUint(string(note), 10, 64) }}
			got, err := c.News(context.Background(), quoter(nil), 1, nil)
			if err != nil || string(got) != test.want {
				t.Errorf("got %q and %v, want %q", got, err, test.want)
			}
		})
	}
	// Only slices may be that long.
	_, err := (&Client{Members: []snapshot.Member{has}, CA: ca.cert.Raw, Device: "r01-u01"}).Release(context.Background(), quoter(nil), 1)
	var problem *report.Problem
	if !errors.As(err, &problem) || problem.Code != report.KeyUnreachable {
		t.Errorf("a release as long as a slice: %v", err)
	}
}
