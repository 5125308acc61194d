// Package report holds the stable codes by which console, report, audit log,
// metrics and runbook name the same trouble. It opens no file and no socket.
package report

import "fmt"

// Code is a stable name: LF-AREA-NN.
type Code string

// Problem is an error with a stable code, told the way a technician needs it.
type Problem struct {
	Code Code
	What string // what is wrong, in this machine's terms, with its cause
	Do   string // the repair; "" takes the code's own
	Err  error  // the cause, may be nil
}

// Error implements error.
func (p *Problem) Error() string { return fmt.Sprintf("%s: %s", p.Code, p.What) }

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// Errorf makes a Problem whose What is the formatted text and whose cause is
// what %w wraps.
func Errorf(code Code, format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{Code: code, What: err.Error(), Err: err}
}
