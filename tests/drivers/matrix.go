// What the Go programs of this folder share; the counterpart of matrix.py, which says what the arguments are.

package main

import (
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"time"
)

var tables = []string{"orders", "products", "notes"}

const doc = `{"a": [1, null, "ü"], "deep": {"b": true}}`

var at = time.Date(2024, 12, 31, 23, 30, 0, 0, time.UTC)

func dsn() string                 { return os.Args[1] }
func throughTenantry() bool       { return os.Args[2] == "tenantry" }
func passwordDSN() string         { return os.Args[3] }
func check(got, want any)         { checkThat(reflect.DeepEqual(got, want), "got %#v, want %#v", got, want) }
func must(err error)              { checkThat(err == nil, "%v", err) }
func the[T any](v T, err error) T { must(err); return v }

func checkThat(holds bool, words string, values ...any) {
	if !holds {
		panic(fmt.Sprintf(words, values...))
	}
}

type subject struct {
	name string
	work func()
}

// run runs every subject, says how each went, and ends the process.
func run(subjects ...subject) {
	var failed []string
	for _, s := range subjects {
		start := time.Now()
		if passes(s) {
			fmt.Println("ok", s.name, time.Since(start).Round(time.Millisecond))
		} else {
			failed = append(failed, s.name)
			fmt.Println("FAILED", s.name)
		}
	}
	if failed != nil {
		fmt.Fprintln(os.Stderr, "failed:", failed)
		os.Exit(1)
	}
}

func passes(s subject) (ok bool) {
	defer func() {
		if said := recover(); said != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n%s", s.name, said, debug.Stack())
			ok = false
		}
	}()
	s.work()
	return true
}
