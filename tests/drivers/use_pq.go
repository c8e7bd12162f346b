// database/sql over lib/pq, and over pgx where that is no other program. Arguments: see matrix.py. Run: go run matrix.go use_pq.go ...

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	_ "github.com/jackc/pgx/v4/stdlib"
	"github.com/lib/pq"
)

var ctx = context.Background()

// each runs work for every table on a pool of each driver: lib/pq, the same with its parameters in the Bind of one round trip, and pgx.
func each(work func(db *sql.DB, table string)) {
	for _, way := range [][2]string{{"postgres", "binary_parameters=no"}, {"postgres", "binary_parameters=yes"}, {"pgx", ""}} {
		for _, table := range tables {
			withDB(way[0], dsn()+"&sslmode=disable&"+way[1], func(db *sql.DB) { work(db, table) })
		}
	}
}

func withDB(driver, dsn string, work func(db *sql.DB)) {
	db := the(sql.Open(driver, dsn))
	defer db.Close()
	db.SetMaxOpenConns(4)
	work(db)
}

type querier interface {
	QueryRow(sql string, values ...any) *sql.Row
}

func one[T any](c querier, sql string, values ...any) (value T) {
	must(c.QueryRow(sql, values...).Scan(&value))
	return value
}

// codeOf is the SQLSTATE of the server's error in err.
func codeOf(err error) string {
	var ofPQ *pq.Error
	var ofPgx *pgconn.PgError
	switch {
	case errors.As(err, &ofPQ):
		return string(ofPQ.Code)
	case errors.As(err, &ofPgx):
		return ofPgx.Code
	}
	panic(fmt.Sprintf("this must fail with an error of the server: %v", err))
}

func logsIn() {
	withDB("postgres", dsn()+"&sslmode=disable", func(db *sql.DB) { must(db.Ping()) })
	if passwordDSN() == "" {
		return
	}
	withDB("postgres", passwordDSN()+"&sslmode=disable", func(db *sql.DB) { check(one[string](db, "SELECT current_user"), "app") })
	withDB("postgres", strings.Replace(passwordDSN(), "correct", "wrong", 1)+"&sslmode=disable", func(db *sql.DB) {
		check(codeOf(db.Ping()), "28P01")
	})
}

func types() {
	each(func(db *sql.DB, table string) {
		the(db.Exec("DELETE FROM " + table))
		insert := the(db.Prepare("INSERT INTO " + table + ` (tenant, id, name, amount, ratio, flag, day, at, key, doc, data, tags, numbers, feeling)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`))
		for tenant := 1; tenant <= 3; tenant++ {
			for id := 0; id < 5; id++ {
				done := the(insert.Exec(tenant, id, fmt.Sprintf("order %d 'ü'", id), "12345.678", 1.5, id%2 == 0, "2024-02-29", at,
					"00000000-0000-0000-0000-000000000005", doc, []byte{0, 255, byte(id)}, pq.Array([]string{"a", `q"ü,`}),
					pq.Array([]int64{1, -3}), "bad"))
				check(the(done.RowsAffected()), int64(1))
			}
		}
		must(insert.Close())
		var name, amount, key, feeling string
		var ratio float64
		var flag bool
		var day, instant time.Time
		var written, data []byte
		var tags []string
		var numbers []int64
		must(db.QueryRow("SELECT name, amount, ratio, flag, day, at, key, doc, data, tags, numbers, feeling FROM "+table+" WHERE tenant = $1 AND id = $2", 2, 3).
			Scan(&name, &amount, &ratio, &flag, &day, &instant, &key, &written, &data, pq.Array(&tags), pq.Array(&numbers), &feeling))
		check([]any{name, amount, ratio, flag, key, feeling, data, tags, numbers}, []any{"order 3 'ü'", "12345.678", 1.5, false,
			"00000000-0000-0000-0000-000000000005", "bad", []byte{0, 255, 3}, []string{"a", `q"ü,`}, []int64{1, -3}})
		check([]string{day.Format("2006-01-02"), instant.UTC().String()}, []string{"2024-02-29", at.String()})
		var parsed map[string]any
		must(json.Unmarshal(written, &parsed))
		check(parsed["deep"], map[string]any{"b": true})
		check(one[int](db, "SELECT count(*) FROM "+table+" WHERE tenant = ANY($1)", pq.Array([]int64{1, 3})), 10)
		rows := the(db.Query("SELECT tenant, at, name FROM " + table))
		kinds := the(rows.ColumnTypes())
		check([]string{kinds[0].DatabaseTypeName(), kinds[1].DatabaseTypeName(), kinds[2].Name()}, []string{"INT4", "TIMESTAMPTZ", "name"})
		must(rows.Close())
	})
}

func preparedStatements() {
	each(func(db *sql.DB, table string) {
		find := the(db.Prepare("SELECT id FROM " + table + " WHERE tenant = $1 AND id = $2"))
		for i := 0; i < 30; i++ {
			var id int
			must(find.QueryRow(1+i%3, i%5).Scan(&id))
			check(id, i%5)
		}
		// Connections of the pool prepare it as they are needed, and a transaction's too.
		answers := make(chan error)
		for i := 0; i < 40; i++ {
			go func(i int) {
				var id int
				err := find.QueryRow(1+i%3, i%5).Scan(&id)
				if err == nil && id != i%5 {
					err = fmt.Errorf("got %d", id)
				}
				answers <- err
			}(i)
		}
		for i := 0; i < 40; i++ {
			must(<-answers)
		}
		tx := the(db.Begin())
		var id int
		must(tx.Stmt(find).QueryRow(2, 4).Scan(&id))
		check(id, 4)
		must(tx.Commit())
		must(find.Close())
		_, err := db.Prepare("SELECT nothing FROM " + table + " WHERE tenant = $1")
		check(codeOf(err), "42703")
		if _, isPQ := db.Driver().(*pq.Driver); !isPQ {
			return // Simple queries are this driver's by a setting only.
		}
		rows := the(db.Query("SELECT 1; SELECT id FROM " + table + " WHERE tenant = 1 AND id = 2"))
		check([]bool{rows.Next(), rows.Next(), rows.NextResultSet(), rows.Next()}, []bool{true, false, true, true})
		must(rows.Scan(&id))
		check(id, 2)
		must(rows.Close())
	})
}

func transactions() {
	each(func(db *sql.DB, table string) {
		tx := the(db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead}))
		the(tx.Exec("INSERT INTO "+table+" (tenant, id) VALUES ($1, 1), ($2, 1)", 20, 21))
		the(tx.Exec("SAVEPOINT a"))
		_, err := tx.Exec("INSERT INTO "+table+" (tenant, id) VALUES ($1, 1)", 20)
		check(codeOf(err), "23505")
		_, err = tx.Exec("SELECT 1")
		check(codeOf(err), "25P02")
		the(tx.Exec("ROLLBACK TO SAVEPOINT a"))
		check(one[string](tx, "SHOW transaction_isolation"), "repeatable read")
		must(tx.Commit())
		check(the(the(db.Exec("DELETE FROM "+table+" WHERE tenant >= $1", 20)).RowsAffected()), int64(2))
		tx = the(db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}))
		_, err = tx.Exec("DELETE FROM "+table+" WHERE tenant = $1", 1)
		check(codeOf(err), "25006")
		must(tx.Rollback())
		check(one[int](db, "SELECT count(*) FROM "+table), 15)
	})
}

func cancels() {
	each(func(db *sql.DB, table string) {
		for _, sql := range []string{"SELECT pg_sleep(60) FROM " + table + " WHERE tenant = $1", "SELECT max(pg_sleep(60)::text) FROM " + table + " WHERE id = $1"} {
			soon, end := context.WithTimeout(ctx, 200*time.Millisecond)
			_, err := db.ExecContext(soon, sql, 1)
			end()
			checkThat(err != nil && (errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || codeOf(err) == "57014"), "this must be cancelled: %v", err)
			check(one[int](db, "SELECT count(*) FROM "+table), 15)
		}
	})
}

func copies() {
	withDB("postgres", dsn()+"&sslmode=disable", func(db *sql.DB) {
		for _, table := range tables {
			tx := the(db.Begin())
			rows := the(tx.Prepare(pq.CopyIn(table, "tenant", "id", "name", "at", "data")))
			for i := 0; i < 2000; i++ {
				the(rows.Exec(30+i%7, i, fmt.Sprintf("x\t%d", i), at, []byte{0, 255}))
			}
			check(the(the(rows.Exec()).RowsAffected()), int64(2000))
			must(rows.Close())
			check(one[int](tx, "SELECT count(*) FROM "+table+" WHERE name LIKE E'x\\t%' AND data = '\\x00ff'"), 2000)
			must(tx.Rollback())
			tx = the(db.Begin())
			rows = the(tx.Prepare(pq.CopyIn(table, "tenant", "id")))
			the(rows.Exec(1, 1))
			_, err := rows.Exec()
			check(codeOf(err), "23505")
			must(tx.Rollback())
		}
	})
}

func errorsWithTheirFields() {
	withDB("postgres", dsn()+"&sslmode=disable", func(db *sql.DB) {
		for _, table := range tables {
			_, err := db.Exec("INSERT INTO "+table+" (tenant, id) VALUES ($1, 1)", 1)
			twice := err.(*pq.Error)
			check([]string{twice.Code.Name(), twice.Severity, twice.Table, twice.Constraint, twice.Detail},
				[]string{"unique_violation", "ERROR", table, table + "_pkey", "Key (tenant, id)=(1, 1) already exists."})
			_, err = db.Exec("SELECT nothing FROM "+table+" WHERE tenant = $1", 1)
			check([]string{codeOf(err), err.(*pq.Error).Position}, []string{"42703", "8"})
			_, err = db.Exec("INSERT INTO "+table+" (tenant, id, name) VALUES (1, 500, $1)", "")
			check([]string{codeOf(err), err.(*pq.Error).Constraint}, []string{"23514", "name_is_not_empty"})
		}
	})
}

func listens() {
	withDB("postgres", dsn()+"&sslmode=disable", func(db *sql.DB) {
		events := make(chan pq.ListenerEventType, 10)
		listener := pq.NewListener(dsn()+"&sslmode=disable", 10*time.Millisecond, time.Second, func(event pq.ListenerEventType, _ error) { events <- event })
		defer listener.Close()
		must(listener.Listen("news_of_pq"))
		must(listener.Ping())
		for i := 0; i < 3; i++ {
			the(db.Exec("SELECT pg_notify('news_of_pq', $1)", fmt.Sprint(i)))
			select {
			case news := <-listener.Notify:
				check([]string{news.Channel, news.Extra}, []string{"news_of_pq", fmt.Sprint(i)})
			case <-time.After(20 * time.Second):
				panic("no notification came")
			}
		}
		must(listener.Unlisten("news_of_pq"))
	})
}

func main() {
	run(subject{"logs in", logsIn}, subject{"types", types}, subject{"prepared statements", preparedStatements},
		subject{"transactions", transactions}, subject{"copies", copies}, subject{"cancels", cancels},
		subject{"errors with their fields", errorsWithTheirFields}, subject{"listens", listens})
}
