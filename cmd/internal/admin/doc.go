// Package admin is what an agent tells whoever looks after it, over plain HTTP.
//
//	/healthz   200 while the process runs
//	/readyz    200 while the agent can do its work, else 503 and why not
//	/metrics   Prometheus; every figure of ours begins with sallyport_
//	/status    JSON: the same snapshot in full, with each live session, listener and stream
//
// [New] makes the handler and starts nothing; whoever serves it decides where, which is loopback unless told otherwise:
// there is no authentication here, and /status names origins, targets and identities. No page holds a secret.
//
// The figures are not kept here: at each scrape the collector (collector.go) takes one [proxy.Status] and turns it into
// metrics, so the agents pay nothing for them. Only round trips are observed as they happen, by [Admin.ObserveRTT].
package admin
