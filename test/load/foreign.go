//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// foreign reads a -contender flag: NAME=SERVER COMMAND || CLIENT COMMAND, with placeholders in
// braces. Words are split at spaces; there is no quoting.
func foreign(flag string) (contender, error) {
	name, commands, ok := strings.Cut(flag, "=")
	server, client, both := strings.Cut(commands, "||")
	if !ok || !both || name == "" {
		return contender{}, fmt.Errorf("-contender %q: want NAME=SERVER COMMAND || CLIENT COMMAND", flag)
	}
	words := [2][]string{strings.Fields(server), strings.Fields(client)}
	if len(words[0]) == 0 || len(words[1]) == 0 {
		return contender{}, fmt.Errorf("-contender %q: a command is empty", flag)
	}
	if !strings.Contains(client, "{listen") {
		return contender{}, fmt.Errorf("-contender %q: the client command must say where it listens: {listen}", flag)
	}
	return contender{name, 2, func(ctx context.Context, p *place) (*tunnel, error) {
		serverAddr, listenAddr, err := freeAddrs()
		if err != nil {
			return nil, err
		}
		run := func(role string, argv []string, connect, ready string) (*process, string, error) {
			argv = expand(argv, map[string]string{
				"server": serverAddr, "listen": listenAddr, "connect": connect, "target": p.targets[0],
				"cert": p.certs.cert, "key": p.certs.key, "dir": p.dir,
			})
			proc, err := spawn(ctx, p.dir, name+"-"+role, false, argv[0], argv[1:]...)
			if err != nil {
				return nil, "", err
			}
			if err := awaitListening(ctx, proc, ready); err != nil {
				proc.stop()
				return nil, "", err
			}
			return proc, ready, nil
		}
		return startPair(
			func() (*process, string, error) { return run("server", words[0], serverAddr, serverAddr) },
			func(connect string) (*process, string, error) { return run("client", words[1], connect, listenAddr) },
			p)
	}}, nil
}

// expand replaces {name}, {name.host} and {name.port} in words.
func expand(words []string, addrs map[string]string) []string {
	var pairs []string
	for name, value := range addrs {
		pairs = append(pairs, "{"+name+"}", value)
		if host, port, err := net.SplitHostPort(value); err == nil {
			pairs = append(pairs, "{"+name+".host}", host, "{"+name+".port}", port)
		}
	}
	replacer := strings.NewReplacer(pairs...)
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = replacer.Replace(word)
	}
	return out
}

// freeAddrs returns two addresses that nobody listens at just now.
func freeAddrs() (string, string, error) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer first.Close() // after the second is there, so that they differ
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer second.Close()
	return first.Addr().String(), second.Addr().String(), nil
}

// awaitListening waits until something accepts at addr.
func awaitListening(ctx context.Context, p *process, addr string) error {
	for deadline := time.Now().Add(patience); ; {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			return nil
		}
		select {
		case <-p.done:
			return p.failure("does not listen at "+addr, p.err)
		default:
		}
		if time.Now().After(deadline) {
			return p.failure("does not listen at "+addr, errors.New("time is up"))
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
