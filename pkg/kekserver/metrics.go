package kekserver

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/landfall-project/landfall/pkg/fleet"
	"github.com/landfall-project/landfall/pkg/kekproto"
	"github.com/landfall-project/landfall/pkg/report"
)

// metrics has a registry of its own, so that two members in one process do not
// meet. No label holds a device: that would be one time series for each.
type metrics struct {
	registry     *prometheus.Registry
	requests     *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	auditSeconds prometheus.Histogram
	resetJumps   prometheus.Counter
	unproved     prometheus.Counter
	drifts       prometheus.Counter
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "landfall_requests_total", Help: "Requests of the device plane by operation and refusal code; code is empty for a success.",
		}, []string{"op", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "landfall_request_seconds", Help: "Time to answer an attested request, audit log included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"op"}),
		auditSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "landfall_audit_seconds", Help: "Time until an audit record is durable.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
		}),
	}
	m.resetJumps = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "landfall_reset_jumps_total", Help: "Releases to a TPM that was reset more than once since its last one: power-ons without a release, or an interposer.",
	})
	m.unproved = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "landfall_unproved_total", Help: "Requests that named an enrolled device without a quote by its attestation key.",
	})
	m.drifts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "landfall_firmware_changes_total", Help: "Releases to a device whose PCR 0, 2 or 7 was not that of its last release: an update, another card, or somebody's firmware.",
	})
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	m.registry.MustRegister(m.requests, m.seconds, m.auditSeconds, m.resetJumps, m.unproved, m.drifts,
		gauge("landfall_store_epoch", "Writes to the store so far; NaN if it cannot say.", func() float64 {
			epoch, err := s.fleet.Epoch(context.Background())
			if err != nil {
				return math.NaN()
			}
			return float64(epoch)
		}),
		gauge("landfall_audit_lines", "Durable lines of the audit log.", func() float64 {
			head, _ := s.fleet.Log()
			return float64(head.Number)
		}),
		gauge("landfall_audit_broken", "1 if the audit log cannot be written: nothing is released.", func() float64 {
			_, err := s.fleet.Log()
			return boolGauge(err != nil)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "landfall_connections_cut_total",
			Help: "Connections of the device plane that were closed for others, or since nobody proved anything on them in time."},
			func() float64 { return float64(s.gates[0].taken()) }),
		gauge("landfall_lab_profile", "1 if unmeasured boots are accepted.", func() float64 { return boolGauge(s.cfg.Rules.AllowLab) }),
		gauge("landfall_devices_released", "Devices released to since the region's state began.", func() float64 {
			released, _, _, _ := s.fleet.Seen().Summary()
			return float64(released)
		}),
		gauge("landfall_devices_links_broken", "Devices whose last link report says that a link is not proved that has to be.", func() float64 {
			return float64(s.fleet.Seen().Broken())
		}),
		gauge("landfall_devices_refused", "Devices whose last request was refused.", func() float64 {
			_, _, refused, _ := s.fleet.Seen().Summary()
			return float64(len(refused))
		}))
	return m
}

func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) answered(op kekproto.Op, code report.Code, start time.Time) {
	m.requests.WithLabelValues(string(op), string(code)).Inc()
	m.seconds.WithLabelValues(string(op)).Observe(time.Since(start).Seconds())
}

// released counts what a release showed.
func (m *metrics) released(a *fleet.Answer) {
	if a.Jump {
		m.resetJumps.Inc()
	}
	if a.Changed {
		m.drifts.Inc()
	}
}

func (m *metrics) count(op kekproto.Op, code report.Code) {
	m.requests.WithLabelValues(string(op), string(code)).Inc()
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
