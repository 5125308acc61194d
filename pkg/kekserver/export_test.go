package kekserver

// Route is a route of the operator plane, for the test that tries each.
type Route struct {
	Method, Path string
	Roles        []Role
}

// Routes lists the operator plane.
func (s *Server) Routes() []Route {
	var out []Route
	for _, r := range s.routes() {
		out = append(out, Route{r.method, r.path, r.roles})
	}
	return out
}
