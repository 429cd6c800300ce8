-- moonpool.task beyond spawn and sleep; moonpool.batch, moonpool.edit, moonpool.config.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"
local task, batch, edit = moonpool.task, moonpool.batch, moonpool.edit

after_each(K.clean)

local function later(ms, ...)
  local values = table.pack(...)
  return task.spawn(function()
    task.sleep(ms)
    return table.unpack(values, 1, values.n)
  end)
end
local function never() return task.spawn(function() task.sleep(1e9) end) end

describe("task.all", function()
  it("gives the first result of each", function() assert.same({ "a", "b" }, task.all { later(2, "a"), later(1, "b") }) end)
  it("raises the first error of the list, when all have ended", function()
    local ended
    local ok, words = pcall(task.all, { task.spawn(function() error "one" end), task.spawn(function() task.sleep(3) ended = true end) })
    assert.is_false(ok)
    assert.matches("one\nstack traceback", words)
    assert.is_true(ended)
  end)
  it("has a deadline", function()
    local slow = never()
    local r, err = task.all({ later(0, 1), slow }, 5)
    assert.is_nil(r)
    assert.equal("timeout", err.kind)
    slow:cancel()
  end)
  it("names what is no task", function() assert.error_matches(function() task.all { 5 } end, "item 1: a task expected, got number") end)
end)

describe("task.first", function()
  it("gives the place and results of who ends first", function()
    local slow = never()
    assert.same({ 2, "x", "y" }, { task.first { slow, later(1, "x", "y") } })
    slow:cancel()
  end)
  it("raises that one's error, has a deadline, and refuses an empty list", function()
    assert.matches("boom", select(2, pcall(task.first, { task.spawn(function() error "boom" end) })))
    local slow = never()
    assert.equal("timeout", select(2, task.first({ slow }, 3)).kind)
    slow:cancel()
    assert.error_matches(function() task.first {} end, "there are no tasks")
  end)
end)

describe("task.workers", function()
  it("runs at most so many at a time, and gives results by place", function()
    local live, most = 0, 0
    local r = task.workers(3, { 1, 2, 3, 4, 5, 6, 7 }, function(x)
      live = live + 1
      most = math.max(most, live)
      task.sleep(1)
      live = live - 1
      return x * x
    end)
    assert.same({ 1, 4, 9, 16, 25, 36, 49 }, r)
    assert.equal(3, most)
  end)
  it("takes an iterator", function()
    local n = 0
    assert.same({ 1, 2, 3 }, task.workers(2, function() n = n + 1 return n <= 3 and n or nil end, function(x) return x end))
  end)
  it("stops at the first error, cancels the rest and raises it with its traceback", function()
    local seen = {}
    local ok, words = pcall(task.workers, 2, { 1, 2, 3, 4 }, function(x)
      seen[#seen + 1] = x
      if x == 2 then error "on purpose" end
      task.sleep(1e9)
    end)
    assert.is_false(ok)
    assert.matches("on purpose\nstack traceback", words)
    assert.same({ 1, 2 }, seen)
  end)
end)

describe("a channel", function()
  it("holds so many, and ends", function()
    local c, put = task.channel(2), 0
    local writer = task.spawn(function()
      for i = 1, 6 do
        c:put(i)
        put = i
      end
      c:close()
    end)
    task.sleep(2)
    assert.equal(2, put)
    local got = {}
    for v in c:values() do got[#got + 1] = v end
    assert.same({ 1, 2, 3, 4, 5, 6 }, got)
    writer:wait()
    assert.is_nil((c:get()))
    assert.error_matches(function() c:put(1) end, "closed")
  end)
  it("has deadlines, and false is a value", function()
    local c = task.channel()
    assert.equal("timeout", select(2, c:get(2)).kind)
    c:put(false)
    assert.is_false((c:get()))
    assert.error_matches(function() c:put(nil) end, "nil is no value")
  end)
end)

describe("task:cancel", function()
  it("raises at the wait, closes what is open, and is what waiters get", function()
    local closed
    local t = task.spawn(function()
      local _ <close> = setmetatable({}, { __close = function() closed = true end })
      task.sleep(1e9)
    end)
    task.sleep(1)
    assert.is_true(t:cancel())
    local ok, err = pcall(t.wait, t)
    assert.same({ false, "canceled", true }, { ok, err.kind, closed })
    assert.is_false(t:cancel())
  end)
  it("before it began: it never does", function()
    local ran
    local t = task.spawn(function() ran = true end)
    t:cancel()
    assert.is_false((pcall(t.wait, t)))
    assert.is_nil(ran)
  end)
  it("cancels the job and the task that it waits for", function()
    local pool = K.pool_of { K.wedged() }
    local job = pool:submit(K.picture())
    local inner = task.spawn(function() return job:wait() end)
    local outer = task.spawn(function() return inner:wait() end)
    task.sleep(1)
    outer:cancel()
    assert.equal("canceled", job:wait().status)
    assert.is_false((pcall(inner.wait, inner)))
  end)
  it("is heard: nothing is logged", function()
    local out = H.run(H.moonpool .. " -l moonpool -e 'local t = moonpool.task.spawn(function() moonpool.sleep(1e9) end) moonpool.sleep(1) t:cancel()'")
    assert.equal("", out)
  end)
end)

describe("batch", function()
  it("sweeps: the last name changes fastest; a list keeps its order", function()
    assert.same({ { a = 1, b = 1 }, { a = 1, b = 2 }, { a = 2, b = 1 }, { a = 2, b = 2 } }, batch.sweep { b = { 1, 2 }, a = { 1, 2 } })
    assert.same({ { b = 1, a = 1 }, { b = 1, a = 2 }, { b = 2, a = 1 }, { b = 2, a = 2 } }, batch.sweep { { "b", { 1, 2 } }, { "a", { 1, 2 } } })
    assert.same({ {} }, batch.sweep {})
    assert.error_matches(function() batch.sweep { a = 5 } end, "'a': a list of values expected, got number")
  end)
  it("reads CSV as RFC 4180 has it, and says where it is wrong", function()
    local path = H.folder "batch" .. "/x.csv"
    H.write(path, '\239\187\191a,b\r\n1,"two, ""2"""\r\n\r\n"line\nend",\n')
    assert.same({ { a = "1", b = 'two, "2"' }, { a = "line\nend", b = "" } }, batch.csv(path))
    H.write(path, "a;b\n1;2")
    assert.same({ { a = "1", b = "2" } }, batch.csv(path, ";"))
    for text, words in pairs { ["a,b\n1\n"] = "row 2 has 1 cells, the first line 2", ['a\n"x'] = "never closed", [""] = "it is empty" } do
      H.write(path, text)
      local rows, err = batch.csv(path)
      assert.is_nil(rows)
      assert.equal("csv", err.kind)
      assert.matches(words, err.message)
    end
    assert.equal("io", select(2, batch.csv "/no/such").kind)
  end)
  it("lists pictures", function()
    local dir = H.folder "pictures"
    for _, name in ipairs { "b.PNG", "a.jpg", "c.txt", ".png", "d" } do H.write(dir .. "/" .. name, "x") end
    local list = batch.images(dir)
    assert.same({ "a", "b" }, { list[1].stem, list[2].stem })
    assert.equal(2, #list)
    assert.equal("io", select(2, batch.images "/no/such").kind)
  end)
  it("names files by nothing but what it is given, harmlessly", function()
    assert.equal("light-house_sampler-euler_steps-20", batch.name("light house", { steps = 20, sampler = "euler" }))
    assert.equal("etc-passwd", batch.name "../../etc/passwd")
    assert.equal(117, #batch.name(("x"):rep(500)))
    assert.is_true(batch.name(("x"):rep(500)) ~= batch.name(("x"):rep(501)))
    assert.equal("_", batch.name "")
  end)
  it("keeps a manifest: whole lines, files that are there", function()
    local dir = H.folder "manifest"
    do
      local m <close> = batch.manifest(dir .. "/sub/m.jsonl")
      assert.is_false(m:done "a")
      H.write(dir .. "/f", "x")
      assert(m:add("a", { dir .. "/f" }))
      assert(m:add("b", {}))
    end
    local f = io.open(dir .. "/sub/m.jsonl", "ab")
    f:write '{"key": "torn'
    f:close()
    local m <close> = batch.manifest(dir .. "/sub/m.jsonl")
    assert.same({ true, true, false }, { m:done "a", m:done "b", m:done "torn" })
    m:add("c", {})
    os.remove(dir .. "/f")
    assert.is_false(m:done "a")
    local again <close> = batch.manifest(dir .. "/sub/m.jsonl")
    assert.is_true(again:done "c")
    assert.equal("io", select(2, batch.manifest "/proc/no/such").kind)
  end)
end)

describe("edit", function()
  local wf = moonpool.workflow.from { ["1.5"] = { class_type = "A", inputs = { text = "t", n = 1, x = 0.5, on = true, from = { "2", 0 } }, _meta = { title = "My. Node" } }, ["2"] = { class_type = "B", inputs = {} } }
  it("finds nodes by id, title and class, with dots in them", function()
    assert.same({ "1.5", "1.5", "1.5", "2" }, { edit.node(wf, "1.5"), edit.node(wf, "My. Node"), edit.node(wf, "A"), edit.node(wf, "B") })
    assert.same({ "1.5", "text" }, { edit.target(wf, "My. Node.text") })
    assert.same({ "1.5", "text" }, { edit.target(wf, "1.5.text") })
  end)
  it("keeps the kind of what is there", function()
    local function value(words) return edit.parse(wf, words).value end
    assert.same({ "5", 5, 5.5, false, "a=b" }, { value "A.text=5", value "A.n=5", value "A.x=5.5", value "A.on=false", value "A.text=a=b" })
    assert.same({ 7, "word" }, { value "A.from=7", value "A.from=word" })
    assert.matches("true or false expected", select(2, edit.parse(wf, "A.on=maybe")))
    assert.matches("a number expected", select(2, edit.parse(wf, "A.n=x")))
  end)
  it("reads lists and ranges", function()
    assert.same({ 1, 3, 5 }, edit.sweep(wf, "A.n=1..5:2").values)
    assert.same({ 3, 2, 1 }, edit.sweep(wf, "A.n=3..1:-1").values)
    assert.same({ "a, b", "" }, edit.sweep(wf, "A.text=a\\, b,").values)
  end)
end)
