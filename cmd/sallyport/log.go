package main

import (
	"io"
	"log/slog"

	"sallyport/cmd/internal/config"
)

// newLogger logs to w as the settings say. The level is apart, so that a reload can change it.
func newLogger(w io.Writer, c config.LogConfig) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(c.SlogLevel())
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), level
	}
	return slog.New(slog.NewTextHandler(w, o)), level
}
