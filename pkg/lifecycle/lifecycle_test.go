package lifecycle

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landfall-project/landfall/pkg/kekproto"
)

// rows are the cells of the table below a heading of docs/spec/lifecycle.md.
func rows(t *testing.T, heading string) (all [][]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/spec/lifecycle.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## "+heading+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for l := range strings.Lines(text) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(l), "|"), "|"); len(cells) > 1 {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			all = append(all, cells)
		}
	}
	if len(all) < 3 {
		t.Fatalf("no table below %q", heading)
	}
	return all[2:]
}

// everything is every combination of facts; generations beyond two behave as
// these do, since they are only compared.
func everything() (all []Facts) {
	for bits := range 1 << 6 {
		is := func(n int) bool { return bits>>n&1 == 1 }
		for sealed := range uint32(3) {
			for accepted := range uint32(3) {
				f := Facts{Enrolling: is(0), Enrolled: is(1), Approved: is(2), Suspended: is(3), Stays: is(4), Sealed: sealed, Accepted: accepted}
				if is(5) {
					f.Slice = 3
				}
				all = append(all, f)
			}
		}
	}
	return all
}

// holds says whether each of a row's conditions holds.
func holds(t *testing.T, f Facts, conditions string) bool {
	t.Helper()
	facts := map[string]bool{
		"enrolling": f.Enrolling, "enrolled": f.Enrolled, "approved": f.Approved, "suspended": f.Suspended, "slice": f.Slice > 0,
		"volumes": !f.Stays, "sealed": f.Sealed > 0, "accepted": f.Sealed > 0 && f.Accepted == f.Sealed,
	}
	for condition := range strings.SplitSeq(conditions, ", ") {
		name, not := strings.CutPrefix(condition, "not ")
		is, known := facts[name]
		if condition != "" && !known {
			t.Fatalf("the table names no fact %q", name)
		}
		if condition != "" && is == not {
			return false
		}
	}
	return true
}

// Each combination of facts is the stage of the table's first row that fits, and
// without a suspension that of the others.
func TestStageIsTheFirstRowThatFits(t *testing.T) {
	table := rows(t, "Which stage")
	at := func(f Facts, from int) string {
		return table[from+slices.IndexFunc(table[from:], func(row []string) bool { return holds(t, f, row[1]) })][0]
	}
	met := map[Stage]bool{}
	for _, f := range everything() {
		met[f.Stage()] = true
		got, want := []string{f.Stage().String(), f.Way().String()}, []string{at(f, 0), at(f, 1)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v: stage and way (-table +code):\n%s", f, diff)
		}
	}
	if len(met) != len(table) || len(met) != int(Suspended)+1 {
		t.Errorf("%d stages are met, the table has %d and the package %d", len(met), len(table), int(Suspended)+1)
	}
}

// What is to come, and by whom, is as in the table, at every stage in every state
// of a region: exactly one row has it.
func TestNextIsAsDocumented(t *testing.T) {
	regions := []kekproto.RegionState{kekproto.StateBuilding, kekproto.StateInTransit, kekproto.StateReceived, kekproto.StateLive}
	among := func(cell string, state kekproto.RegionState) bool {
		return cell == "any" || cell == "shipped" && state != kekproto.StateBuilding || slices.Contains(strings.Split(cell, ", "), string(state))
	}
	table := rows(t, "What is to come")
	for _, f := range everything() {
		for _, region := range regions {
			s := Of(f, region)
			got := [][]string{{s.What, string(s.Who)}}
			var want [][]string
			for _, row := range table {
				if slices.Contains(strings.Split(row[0], ", "), s.Stage.String()) && among(row[1], region) {
					want = append(want, row[2:])
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%+v in a region %s (-table +code):\n%s", f, region, diff)
			}
		}
	}
}

// Each step that a record takes leads on, whatever else it says.
func TestStepsLeadOn(t *testing.T) {
	steps := map[string]func(*Facts){
		"enrolled": func(f *Facts) { f.Enrolled, f.Enrolling = true, false },
		"approved": func(f *Facts) { f.Approved = true },
		"slice":    func(f *Facts) { f.Slice++ },
		"sealed":   func(f *Facts) { f.Sealed, f.Accepted = max(f.Sealed, 1), 0 },
		"accepted": func(f *Facts) { f.Accepted = f.Sealed },
	}
	for _, f := range everything() {
		for name, step := range steps {
			after := f
			step(&after)
			back := name == "sealed" && f.Way() == Accepted // sealed anew: nobody has opened that yet
			if after.Way() < f.Way() && !back {
				t.Errorf("%s leads from %s back to %s: %+v", name, f.Way(), after.Way(), f)
			}
		}
	}
}

// A device whose newer slice took its volumes away waits for no acceptance, which
// could never come: it counted as sealed once.
func TestStaysCountsBeforeSealed(t *testing.T) {
	for name, f := range map[string]Facts{
		"never sealed":                  {Enrolled: true, Approved: true, Slice: 1, Stays: true},
		"sealed under an earlier slice": {Enrolled: true, Approved: true, Slice: 2, Stays: true, Sealed: 1},
	} {
		want := State{Stage: Staying, What: "there is nothing to seal", Who: Nobody}
		if diff := cmp.Diff(want, Of(f, kekproto.StateBuilding)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// All facts are taken from what a member answers.
func TestFactsOf(t *testing.T) {
	got := FactsOf(&kekproto.DeviceInfo{Enrolling: true, Enrolled: true, Approved: true, Suspended: true, Slice: 1, Stays: true, Sealed: 2, Accepted: 3})
	want := Facts{Enrolling: true, Enrolled: true, Approved: true, Suspended: true, Slice: 1, Stays: true, Sealed: 2, Accepted: 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
