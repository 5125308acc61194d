package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/landfall-project/landfall/pkg/signed"
)

// ErrDOT says that a text is no cabling plan in the DOT language, or is more
// than the bounds allow. Repair the line that the error names.
var ErrDOT = errors.New("cabling plan")

// Bounds of a cabling plan: 4,000 devices with 40 links each make about 8 MiB.
const (
	MaxDOTSize   = 32 << 20 // bytes
	maxDOTString = 16 << 10 // bytes
	maxDOTDepth  = 16       // subgraphs in subgraphs
	maxDOTErrors = 50
)

// ParseDOT reads a cabling plan in the DOT language, as the Prescriptive
// Topology Manager has it: "leaf1":"swp1" -- "r07-u12":"eth0". The grammar is
// https://graphviz.org/doc/info/lang.html without HTML strings and without
// subgraphs as ends of links; docs/spec/dot.md lists the attributes that count.
// All others are of no meaning here and passed over.
//
// A node is a switch if its attribute "function" says so, or isSwitch does
// (which may be nil). The error joins all contradictions, by line.
func ParseDOT(text []byte, isSwitch func(id string) bool) (*Plan, error) {
	if len(text) > MaxDOTSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrDOT, len(text), MaxDOTSize)
	}
	p := &dotParser{lex: dotLexer{text: string(text), line: 1}, plan: dotPlan{nodes: map[string]*dotNode{}}}
	// A file that is none is not quoted: it may be a token or a key.
	if err := p.advance(); err != nil || !p.begins() {
		return nil, fmt.Errorf("%w: it does not begin with graph NAME {; it is %s", ErrDOT, signed.Kind(text))
	}
	if err := p.graph(); err != nil {
		return nil, err
	}
	return p.plan.build(isSwitch)
}

// dotAttributes are those of a node or a link that count, by their names in
// lower case.
type dotAttributes map[string]string

// dotScope holds what "node [...]" and "edge [...]" set for what follows in
// their subgraph.
type dotScope struct {
	node, edge dotAttributes
}

func (s dotScope) clone() dotScope {
	return dotScope{maps.Clone(s.node), maps.Clone(s.edge)}
}

// dotParser is a recursive descent parser with one token of lookahead.
type dotParser struct {
	lex   dotLexer
	tok   dotToken
	arrow string // "--" or "->"
	plan  dotPlan
}

func (p *dotParser) advance() (err error) {
	p.tok, err = p.lex.next()
	return err
}

// begins says whether the token may be the first one of a plan.
func (p *dotParser) begins() bool {
	return p.tok.keyword("strict") || p.tok.keyword("graph") || p.tok.keyword("digraph")
}

func (p *dotParser) fail(format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrDOT, p.tok.line, fmt.Sprintf(format, args...))
}

// accept moves over an operator, if it is there.
func (p *dotParser) accept(op string) (bool, error) {
	if !p.tok.is(op) {
		return false, nil
	}
	return true, p.advance()
}

func (p *dotParser) expect(op string) error {
	if !p.tok.is(op) {
		return p.fail("%q must stand here, not %s", op, &p.tok)
	}
	return p.advance()
}

// id reads an ID; quoted strings may be put together with +.
func (p *dotParser) id(what string) (string, error) {
	if !p.tok.id {
		return "", p.fail("%s must stand here, not %s", what, &p.tok)
	}
	text, quoted := p.tok.text, p.tok.quoted
	if err := p.advance(); err != nil {
		return "", err
	}
	for quoted && p.tok.is("+") {
		if err := p.advance(); err != nil {
			return "", err
		}
		if !p.tok.quoted || len(text)+len(p.tok.text) > maxDOTString {
			return "", p.fail("behind + must stand a string in quotes; all of it has at most %d bytes", maxDOTString)
		}
		text += p.tok.text
		if err := p.advance(); err != nil {
			return "", err
		}
	}
	return text, nil
}

// graph : [ strict ] (graph | digraph) [ ID ] '{' stmt_list '}'
func (p *dotParser) graph() error {
	if p.tok.keyword("strict") {
		if err := p.advance(); err != nil {
			return err
		}
	}
	switch {
	case p.tok.keyword("graph"):
		p.arrow = "--"
	case p.tok.keyword("digraph"):
		p.arrow = "->"
	default:
		return p.fail("a plan begins with graph NAME {, not with %s", &p.tok)
	}
	if err := p.advance(); err != nil {
		return err
	}
	if p.tok.id {
		if _, err := p.id("the graph's name"); err != nil {
			return err
		}
	}
	if err := p.statements(dotScope{dotAttributes{}, dotAttributes{}}, 0); err != nil {
		return err
	}
	if p.tok.id || p.tok.text != "" {
		return p.fail("the graph has ended, but %s follows", &p.tok)
	}
	return nil
}

// statements : '{' stmt_list '}'
func (p *dotParser) statements(scope dotScope, depth int) error {
	if depth > maxDOTDepth {
		return p.fail("subgraphs in each other, more than %d deep", maxDOTDepth)
	}
	if err := p.expect("{"); err != nil {
		return err
	}
	for !p.tok.is("}") {
		if err := p.statement(scope, depth); err != nil {
			return err
		}
		if _, err := p.accept(";"); err != nil {
			return err
		}
	}
	return p.advance()
}

// statement : node_stmt | edge_stmt | attr_stmt | ID '=' ID | subgraph
func (p *dotParser) statement(scope dotScope, depth int) error {
	switch {
	case p.tok.is("{"), p.tok.keyword("subgraph"):
		return p.subgraph(scope, depth)
	case p.tok.keyword("node"):
		return p.defaults(scope.node)
	case p.tok.keyword("edge"):
		return p.defaults(scope.edge)
	case p.tok.keyword("graph"):
		return p.defaults(dotAttributes{})
	}
	line := p.tok.line
	name, err := p.id("a device or switch")
	if err != nil {
		return err
	}
	if ok, err := p.accept("="); ok || err != nil {
		if err == nil {
			_, err = p.id("a value")
		}
		return err
	}
	end := dotEnd{node: name, line: line}
	if err := p.port(&end); err != nil {
		return err
	}
	if p.tok.is("--") || p.tok.is("->") {
		return p.edges(scope, end)
	}
	own, err := p.attributes()
	if err != nil {
		return err
	}
	return p.plan.addNode(end, scope.node, own)
}

// subgraph : [ subgraph [ ID ] ] '{' stmt_list '}'
func (p *dotParser) subgraph(scope dotScope, depth int) error {
	if p.tok.keyword("subgraph") {
		if err := p.advance(); err != nil {
			return err
		}
		if p.tok.id {
			if _, err := p.id("the subgraph's name"); err != nil {
				return err
			}
		}
	}
	if err := p.statements(scope.clone(), depth+1); err != nil {
		return err
	}
	if p.tok.is("--") || p.tok.is("->") {
		return p.fail("a subgraph cannot be the end of a link: name the ports")
	}
	return nil
}

func (p *dotParser) defaults(of dotAttributes) error {
	if err := p.advance(); err != nil {
		return err
	}
	if !p.tok.is("[") {
		return p.fail("\"[\" must stand here, not %s", &p.tok)
	}
	set, err := p.attributes()
	maps.Copy(of, set)
	return err
}

// port : ':' ID [ ':' compass_pt ]. The compass point is for drawings.
func (p *dotParser) port(end *dotEnd) error {
	for i := range 2 {
		ok, err := p.accept(":")
		if !ok || err != nil {
			return err
		}
		text, err := p.id("a port")
		if err != nil {
			return err
		}
		if i == 0 {
			end.port = text
		}
	}
	return nil
}

// edges : edgeRHS [ attr_list ], behind the first end.
func (p *dotParser) edges(scope dotScope, first dotEnd) error {
	ends := []dotEnd{first}
	for p.tok.is("--") || p.tok.is("->") {
		if !p.tok.is(p.arrow) {
			return p.fail("the links of this graph are written with %s", p.arrow)
		}
		if err := p.advance(); err != nil {
			return err
		}
		if p.tok.is("{") || p.tok.keyword("subgraph") {
			return p.fail("a subgraph cannot be the end of a link: name the ports")
		}
		end := dotEnd{line: p.tok.line}
		var err error
		if end.node, err = p.id("a device or switch"); err != nil {
			return err
		}
		if err := p.port(&end); err != nil {
			return err
		}
		ends = append(ends, end)
	}
	own, err := p.attributes()
	if err != nil {
		return err
	}
	all := maps.Clone(scope.edge)
	maps.Copy(all, own)
	for i := range len(ends) - 1 {
		if err := p.plan.addEdge(ends[i], ends[i+1], all, scope.node); err != nil {
			return err
		}
	}
	return nil
}

// attributes : attr_list, of which only what counts here is kept.
func (p *dotParser) attributes() (dotAttributes, error) {
	all := dotAttributes{}
	for p.tok.is("[") {
		if err := p.advance(); err != nil {
			return nil, err
		}
		for !p.tok.is("]") {
			name, err := p.id("an attribute")
			if err != nil {
				return nil, err
			}
			value := "true"
			ok, err := p.accept("=")
			if err == nil && ok {
				value, err = p.id("a value")
			}
			if err != nil {
				return nil, err
			}
			if slices.Contains(dotKnown(), strings.ToLower(name)) {
				all[strings.ToLower(name)] = value
			}
			if p.tok.is(",") || p.tok.is(";") {
				if err := p.advance(); err != nil {
					return nil, err
				}
			}
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
