# Ruby's pg (libpq), which Active Record and Sequel stand on. Arguments: see matrix.py.

require "json"
require "pg"

DSN, BEHIND, PASSWORD_DSN = ARGV
TABLES = %w[orders products notes].freeze
DOC = { "a" => [1, nil, "ü"], "deep" => { "b" => true } }.freeze
AT = Time.utc(2024, 12, 31, 23, 30)

def check(got, want)
  raise "got #{got.inspect}, want #{want.inspect}" unless got == want
end

def error_of(kind = PG::Error)
  yield
rescue kind => error
  error
else
  raise "this must fail"
end

def connect
  c = PG.connect(DSN)
  c.type_map_for_results = PG::BasicTypeMapForResults.new(c)
  c.type_map_for_queries = PG::BasicTypeMapForQueries.new(c)
  yield c
ensure
  c&.close
end

def logs_in
  connect { |c| check(c.exec("SELECT 1 AS one").getvalue(0, 0), 1) }
  return if PASSWORD_DSN.empty?

  c = PG.connect(PASSWORD_DSN)
  check(c.exec("SELECT count(*) FROM orders").getvalue(0, 0), "0")
  c.close
  error = error_of { PG.connect(PASSWORD_DSN.sub("correct", "wrong")) }
  check(error.message.include?("password authentication failed"), true)
end

def types
  connect do |c|
    TABLES.each do |table|
      (1..3).each do |tenant|
        5.times do |id|
          c.exec_params("INSERT INTO #{table} (tenant, id, name, amount, ratio, flag, day, at, doc, data, numbers, feeling) " \
                        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                        [tenant, id, "order #{id} 'ü'", "12345.678", 1.5, id.even?, "2024-02-29", AT, JSON.generate(DOC),
                         "\\x00ff", [1, nil, -3], "bad"])
        end
      end
      [0, 1].each do |format|
        row = c.exec_params("SELECT tenant, name, flag, ratio FROM #{table} WHERE tenant = $1 AND id = $2", [2, 3], format)
        check(row.values, [[2, "order 3 'ü'", false, 1.5]])
      end
      row = c.exec_params("SELECT day, at, doc, data, numbers, feeling FROM #{table} WHERE tenant = $1 AND id = $2", [2, 3])[0]
      check(row["day"], Date.new(2024, 2, 29))
      check(row["at"], AT)
      check(row["doc"].is_a?(String) ? JSON.parse(row["doc"]) : row["doc"], DOC)
      check([row["data"].b, row["numbers"], row["feeling"]], ["\0\xFF".b, [1, nil, -3], "bad"])
      check(c.exec("SELECT sum(amount)::text FROM #{table}").getvalue(0, 0), "185185.170")
      answer = c.exec("SELECT feeling FROM #{table} WHERE tenant = 1")
      check(answer.ftype(0), c.exec("SELECT 'mood'::regtype::oid").getvalue(0, 0).to_i)
      check(answer.ftable(0), c.exec("SELECT '#{table}'::regclass::oid").getvalue(0, 0).to_i)
    end
  end
end

def prepared_statements
  connect do |c|
    TABLES.each do |table|
      c.prepare("find_#{table}", "SELECT id FROM #{table} WHERE tenant = $1 AND id = $2")
      20.times { |i| check(c.exec_prepared("find_#{table}", [1 + i % 3, i % 5]).getvalue(0, 0), i % 5) }
      check(c.describe_prepared("find_#{table}").paramtype(0), 23)
      check(error_of { c.prepare("find_#{table}", "SELECT 1") }.result.error_field(PG::PG_DIAG_SQLSTATE), "42P05")
      c.exec("DEALLOCATE find_#{table}")
      check(error_of { c.exec_prepared("find_#{table}", [1, 1]) }.result.error_field(PG::PG_DIAG_SQLSTATE), "26000")
    end
  end
end

def pipelines
  connect do |c|
    TABLES.each do |table|
      c.enter_pipeline_mode
      60.times { |i| c.send_query_params("SELECT id FROM #{table} WHERE tenant = $1 AND id = $2", [1 + i % 3, i % 5]) }
      c.pipeline_sync
      60.times do |i|
        check(c.get_result.getvalue(0, 0), i % 5)
        check(c.get_result, nil)
      end
      check(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
      c.exit_pipeline_mode
    end
  end
end

def transactions
  connect do |c|
    TABLES.each do |table|
      c.transaction do
        c.exec("INSERT INTO #{table} (tenant, id) VALUES (20, 1)")
        c.exec("SAVEPOINT a")
        c.exec("INSERT INTO #{table} (tenant, id) VALUES (21, 1)")
        error_of(PG::UniqueViolation) { c.exec("INSERT INTO #{table} (tenant, id) VALUES (21, 1)") }
        c.exec("ROLLBACK TO SAVEPOINT a")
        c.exec("INSERT INTO #{table} (tenant, id) VALUES (22, 1)")
      end
      check(c.exec("SELECT tenant FROM #{table} WHERE tenant >= 20 ORDER BY 1").column_values(0), [20, 22])
      error_of(ZeroDivisionError) { c.transaction { c.exec("DELETE FROM #{table}") && 1 / 0 } }
      check(c.exec("DELETE FROM #{table} WHERE tenant >= 20").cmd_tuples, 2)
    end
  end
end

def copies
  connect do |c|
    TABLES.each do |table|
      c.exec("BEGIN")
      done = c.copy_data("COPY #{table} (tenant, id, name) FROM STDIN (FORMAT csv)") do
        1000.times { |i| c.put_copy_data("#{30 + i % 7},#{i},\"x, #{i}\"\n") }
      end
      check(done.cmd_tuples, 1000)
      lines = 0
      c.copy_data("COPY #{table} TO STDOUT") { lines += 1 while c.get_copy_data }
      check(lines, 1015)
      c.exec("ROLLBACK")
      error_of(PG::InvalidTextRepresentation) { c.copy_data("COPY #{table} (tenant, id) FROM STDIN") { c.put_copy_data("1\tx\n") } }
      check(c.exec("SELECT count(*) FROM #{table}").getvalue(0, 0), 15)
    end
  end
end

def cancels
  connect do |c|
    TABLES.each do |table|
      ["SELECT pg_sleep(60) FROM #{table} WHERE tenant = 1", "SELECT max(pg_sleep(60)::text) FROM #{table}"].each do |sql|
        Thread.new { sleep(0.3) && c.cancel }
        error_of(PG::QueryCanceled) { c.exec(sql) }
        check(c.exec("SELECT 1").getvalue(0, 0), 1)
      end
    end
  end
end

def errors_with_their_fields
  connect do |c|
    TABLES.each do |table|
      twice = error_of(PG::UniqueViolation) { c.exec("INSERT INTO #{table} (tenant, id) VALUES (1, 1)") }.result
      check([PG::PG_DIAG_TABLE_NAME, PG::PG_DIAG_CONSTRAINT_NAME, PG::PG_DIAG_MESSAGE_DETAIL].map { |f| twice.error_field(f) },
            [table, "#{table}_pkey", "Key (tenant, id)=(1, 1) already exists."])
      error_of(PG::UndefinedColumn) { c.exec_params("SELECT nothing FROM #{table} WHERE tenant = $1", [1]) }
      error_of(PG::CheckViolation) { c.exec("INSERT INTO #{table} (tenant, id, name) VALUES (1, 500, '')") }
    end
  end
end

def rows_one_by_one
  connect do |c|
    TABLES.each do |table|
      ["tenant = 3", "tenant >= 3"].each do |filter|
        c.send_query("SELECT id FROM #{table} WHERE #{filter} ORDER BY tenant, id")
        c.set_single_row_mode
        check(c.get_result.stream_each_row.map(&:first), [0, 1, 2, 3, 4])
        check(c.get_result, nil)
      end
    end
  end
end

failed = %i[logs_in types prepared_statements pipelines transactions copies cancels errors_with_their_fields rows_one_by_one].reject do |subject|
  send(subject)
  puts "ok #{subject}"
  true
rescue StandardError => error
  puts "FAILED #{subject}"
  warn error.full_message
end
exit(failed.empty? ? 0 : 1)
