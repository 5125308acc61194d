package main

import (
	"fmt"
	"strings"

	"github.com/landfall-project/landfall/pkg/fleetdir"
	"github.com/landfall-project/landfall/pkg/opsclient"
	"github.com/landfall-project/landfall/pkg/snapshot"
)

func (a *app) agent() (*fleetdir.Agent, error) {
	dir, err := fleetdir.FindAgent(a.region, a.as)
	if err != nil {
		return nil, err
	}
	return fleetdir.LoadAgent(dir)
}

// connect makes a client of the member that the flags name.
func (a *app) connect() (*opsclient.Client, error) {
	agent, err := a.agent()
	if err != nil {
		return nil, err
	}
	member, err := pick(agent, a.member)
	if err != nil {
		return nil, err
	}
	if a.url != "" {
		if member.URL, err = opsclient.OperatorPlane(a.url); err != nil {
			return nil, fmt.Errorf("--url %w", err)
		}
	}
	config, err := agent.TLS(member.ID)
	if err != nil {
		return nil, err
	}
	return opsclient.New(member, config), nil
}

func pick(agent *fleetdir.Agent, id string) (snapshot.Member, error) {
	var ids []string
	for _, m := range agent.Members {
		if id == "" || m.ID == id {
			return m, nil
		}
		ids = append(ids, m.ID)
	}
	return snapshot.Member{}, fmt.Errorf("no member %s in region %s; there are %s", id, agent.Region, strings.Join(ids, ", "))
}

// elsewhere says where else something must be done that every member must know.
func (a *app) elsewhere() error {
	agent, err := a.agent()
	if err != nil {
		return err
	}
	here, err := pick(agent, a.member)
	if err != nil {
		return err
	}
	for _, m := range agent.Members {
		if m.ID != here.ID {
			a.say("member %s does not know of it: members do not share their stores; repeat this with --member %s", m.ID, m.ID)
		}
	}
	return nil
}
