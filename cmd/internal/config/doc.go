// Package config turns a YAML file, environment variables and flags into checked values.
//
// [Settings] is the table of everything that can be set: key in the file, flag, variable, default. All else follows from it, so
// that a new setting is one line there, a field in [Config] and an entry in config.example.yaml (a test compares them).
//
// A command reads its configuration in four steps:
//
//	c, err := config.Load(path)                     // defaults, then the file; "" is no file
//	err = c.ApplyEnv(config.Client, os.LookupEnv)   // SALLYPORT_...
//	err = c.ApplyFlags(config.Client, flagValues)   // what was given on the command line
//	err = c.Check(config.Client, checks)            // what fits together; grammars that other packages own
//
// Each step overrides the one before, a list as a whole. Where two settings exclude each other, the one from the later step wins
// and only two from the same step are an error. Every value remembers where it came from, so errors of each step say it
// (file:line, flag or variable), and each step reports all that it finds, joined.
//
// A [Secret] does not print, whatever the verb, nor does it marshal or log. A secret can't be written in the file at all: the
// file names another one that holds it.
package config
