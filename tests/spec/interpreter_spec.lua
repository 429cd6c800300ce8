-- tests/spec/interpreter_spec.lua: build/moonpool as an interpreter, and `moonpool sim`.
local H = require "helper"
local moonpool = require "moonpool"
local json = moonpool.json

local dir = H.folder "interpreter"
local count = 0

-- A script of its own under the build folder.
local function script(text)
  count = count + 1
  local path = ("%s/s%d.lua"):format(dir, count)
  H.write(path, text)
  return path
end

local function quoted(s) return "'" .. s:gsub("'", "'\\''") .. "'" end

-- Runs the program: what it printed to both outputs, and its exit code.
local function run(...)
  local words = { "timeout 30 " .. H.moonpool }
  for _, w in ipairs { ... } do words[#words + 1] = quoted(w) end
  return H.run(table.concat(words, " "))
end

local function code(text, ...) return run("-e", text, ...) end

describe("moonpool FILE.lua", function()
  it("sets arg and ...", function()
    local path = script [[print(#arg, arg[0], arg[1], arg[2], select("#", ...), ...) print(arg[-1])]]
    local out, rc = run(path, "a", "b c")
    assert.are.equal(("2\t%s\ta\tb c\t2\ta\tb c\n%s\n"):format(path, H.moonpool), out)
    assert.are.equal(0, rc)
  end)

  it("ends with 0, or with what os.exit says", function()
    assert.are.equal(0, select(2, run(script "")))
    assert.are.equal(0, select(2, run(script "return 5")))
    assert.are.equal(3, select(2, run(script "os.exit(3)")))
  end)

  it("an error: 1, with the message and a traceback that names the script's lines", function()
    local path = script "local function inner()\n  error('it broke')\nend\nlocal function outer()\n  inner()\n  return 1\nend\nouter()\n"
    local out, rc = run(path)
    assert.are.equal(1, rc)
    assert.is_truthy(out:find(path .. ":2: it broke", 1, true), out)
    assert.is_truthy(out:find("stack traceback:", 1, true), out)
    assert.is_truthy(out:find(path .. ":5:", 1, true), out)
  end)

  it("an error object: its tostring, or what it is", function()
    local out, rc = run(script "error(setmetatable({}, { __tostring = function() return 'mine' end }))")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("moonpool: mine", 1, true), out)
    out, rc = run(script "error {}")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("(error object is a table value)", 1, true), out)
    out, rc = run(script "error(nil)")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("(error object is a nil value)", 1, true), out)
  end)

  it("a number raised is its text, as lua prints it", function()
    local out, rc = run(script "error(42)")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("moonpool: 42", 1, true), out)
  end)

  it("an error of the API raised by the script keeps its words", function()
    local out, rc = run(script "local m = require 'moonpool' error((select(2, m.workflow.load 'none.json')))")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("none.json", 1, true), out)
  end)

  it("that does not compile, or is not there: 1 and why", function()
    local path = script "x ="
    local out, rc = run(path)
    assert.are.equal(1, rc)
    assert.is_truthy(out:find(path .. ":1:", 1, true), out)
    out, rc = run(dir .. "/none.lua")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("none.lua", 1, true), out)
  end)

  it("may begin with #!", function()
    assert.are.same({ "hello\n", 0 }, { run(script "#!/usr/bin/env moonpool\nprint 'hello'\n") })
  end)

  it("output is complete when it ends by os.exit or by an error", function()
    assert.are.equal("one\n", (run(script "print 'one' os.exit(0)")))
    assert.matches("^one\n", (run(script "print 'one' error 'x'")))
  end)
end)

describe("tasks of a script", function()
  it("the program ends when the file and all tasks have ended", function()
    local out, rc = run(script [[
      local m = require "moonpool"
      m.spawn(function() m.sleep(5) m.spawn(function() m.sleep(5) print "third" end) print "second" end)
      print "first"]])
    assert.are.equal("first\nsecond\nthird\n", out)
    assert.are.equal(0, rc)
  end)

  it("an error nobody waits for: 1, with its own traceback; the others end first", function()
    local path = script [[
      local m = require "moonpool"
      local function deep() error "boom" end
      m.spawn(function() deep() return 1 end)
      m.spawn(function() m.sleep(20) print "the other" end)]]
    local out, rc = run(path)
    assert.are.equal(1, rc)
    assert.is_truthy(out:find(path .. ":2: boom", 1, true), out)
    assert.is_truthy(out:find("stack traceback:", 1, true), out)
    assert.is_truthy(out:find(path .. ":3:", 1, true), out)
    assert.is_truthy(out:find("the other", 1, true), out)
  end)

  it("an error that somebody waits for reaches the waiter", function()
    local out, rc = run(script [[
      local m = require "moonpool"
      local t = m.spawn(function() error({ kind = "mine" }) end)
      local ok, e = pcall(t.wait, t)
      print(ok, e.kind)]])
    assert.are.equal("false\tmine\n", out)
    assert.are.equal(0, rc)
  end)

  it("an error object raised in a task: 1, and its words", function()
    local out, rc = run(script [[
      require "moonpool".spawn(function() error(setmetatable({}, { __tostring = function() return "mine" end })) end)]])
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("mine", 1, true), out)
  end)

  it("an error of the file itself does not wait for tasks that run for ever", function()
    local out, rc = run(script [[
      local m = require "moonpool"
      m.spawn(function() while true do m.sleep(100000) end end)
      m.sleep(1)
      error "now"]])
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("now", 1, true), out)
    assert.is_nil(out:find("LeakSanitizer", 1, true), out)        -- the timer that was pending
  end)
end)

describe("moonpool options", function()
  it("-e runs code, more than once, in one state", function()
    assert.are.same({ "1\n", 0 }, { code "print(1)" })
    assert.are.same({ "5\n", 0 }, { run("-e", "x = 5", "-e", "print(x)") })
    assert.are.same({ "7\n", 0 }, { run "-eprint(7)" })
  end)

  it("-e before a script: both run", function()
    local path = script "print(x, ...)"
    assert.are.same({ "5\ta\n", 0 }, { run("-e", "x = 5", path, "a") })
  end)

  it("-e with an error: 1, traceback, and the script is not run", function()
    local path = script "print 'ran'"
    local out, rc = run("-e", "error 'early'", path)
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("(command line):1: early", 1, true), out)
    assert.is_truthy(out:find("stack traceback:", 1, true), out)
    assert.is_nil(out:find("ran\n", 1, true))
    assert.are.equal(1, select(2, code "x ="))
  end)

  it("-e waits for its tasks", function()
    assert.are.same({ "late\n", 0 }, { code "local m = require 'moonpool' m.spawn(function() m.sleep(5) print 'late' end)" })
  end)

  it("-l requires a module under its name", function()
    assert.are.same({ "moonpool 0.1\n", 0 }, { run("-l", "moonpool", "-e", "print(moonpool._VERSION)") })
    assert.are.same({ "moonpool 0.1\n", 0 }, { run("-lmoonpool", "-e", "print(moonpool._VERSION)") })
    local out, rc = run("-l", "no.such.module")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("module 'no.such.module' not found", 1, true), out)
  end)

  it("-v prints the version, and goes on with a script", function()
    local out, rc = run "-v"
    assert.are.equal("moonpool 0.1, Lua 5.4\n", out)
    assert.are.equal(0, rc)
    assert.are.equal("moonpool 0.1, Lua 5.4\nran\n", (run("-v", script "print 'ran'")))
  end)

  it("- runs standard input, with arguments", function()
    assert.are.same({ "2\ta\tb\n", 0 }, { H.run("echo 'print(#arg, ...)' | " .. H.moonpool .. " - a b") })
    local out, rc = H.run("echo 'error \"inside\"' | " .. H.moonpool .. " -")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("stdin:1: inside", 1, true), out)
    assert.are.equal(1, select(2, H.run("echo 'x =' | " .. H.moonpool .. " -")))
  end)

  it("without arguments standard input that is no terminal is run, as lua does", function()
    assert.are.same({ "1\n", 0 }, { H.run("echo 'print(1)' | " .. H.moonpool) })
  end)

  it("standard input may begin with #!, as with lua", function()
    assert.are.same({ "2\n", 0 }, { H.run("printf '#!/usr/bin/env moonpool\\nprint(2)\\n' | " .. H.moonpool .. " -") })
  end)

  it("-- ends the options", function()
    local path = script "print(...)"
    assert.are.same({ "-x\n", 0 }, { run("--", path, "-x") })
  end)

  it("what stands behind the script is the script's", function()
    local path = script "print(...)"
    assert.are.same({ "-e\t--help\t-v\n", 0 }, { run(path, "-e", "--help", "-v") })
  end)

  it("-h and --help: 0 and the usage", function()
    for _, o in ipairs { "-h", "--help" } do
      local out, rc = run(o)
      assert.are.equal(0, rc)
      assert.matches("^usage: moonpool", out)
    end
  end)

  it("an unknown option: 2, named, with the usage", function()
    for _, o in ipairs { "-Z", "--nope" } do
      local out, rc = run(o)
      assert.are.equal(2, rc)
      assert.is_truthy(out:find("unknown option " .. o, 1, true), out)
      assert.is_truthy(out:find("usage: moonpool", 1, true), out)
    end
  end)

  it("-e and -l without a value: not 0, without a traceback of ours", function()
    for _, o in ipairs { "-e", "-l" } do
      local out, rc = run(o)
      assert.is_true(rc == 1 or rc == 2)
      assert.is_truthy(out:find(o .. " needs", 1, true), out)
      assert.is_nil(out:find("stack traceback", 1, true), out)
    end
  end)
end)

-- ---- moonpool sim ---------------------------------------------------------------------------------------------------------

-- Starts `moonpool sim` in the background: an object with `urls` (as printed), `text`, and stop(), also at scope end.
local function start(n, ...)
  count = count + 1
  local file = ("%s/sim%d.txt"):format(dir, count)
  H.write(file, "")
  local words = { "timeout 30 " .. H.moonpool .. " sim" }
  for _, w in ipairs { ... } do words[#words + 1] = quoted(w) end
  local p = assert(io.popen(table.concat(words, " ") .. " >" .. file .. " 2>&1 & echo $!"))
  local pid = p:read "l"
  p:close()
  local sim = setmetatable({ urls = {}, stop = function() os.execute("kill " .. pid .. " 2>/dev/null") end }, { __close = function(s) s.stop() end })
  for _ = 1, 400 do
    sim.text = H.read(file)
    if select(2, sim.text:gsub("\n", "\n")) >= n then break end
    moonpool.sleep(25)
  end
  for url in sim.text:gmatch "listening on (http://%S+)" do sim.urls[#sim.urls + 1] = url end
  if #sim.urls ~= n then
    sim.stop()
    error(("%d lines expected, got: %s"):format(n, sim.text))
  end
  return sim
end

local function fetch(url)
  local reply = assert(moonpool.http.request { url = url })
  assert.are.equal(200, reply.status, url)
  return assert(json.decode(reply.body))
end

-- Posts a workflow and waits for its history entry over a WebSocket.
local function run_on(url, workflow)
  local ws <close> = assert(moonpool.ws.connect { url = url:gsub("^http", "ws") .. "/ws?clientId=spec" })
  local reply = assert(moonpool.http.request { method = "POST", url = url .. "/prompt", body = json.encode { prompt = workflow, client_id = "spec" } })
  assert.are.equal(200, reply.status, reply.body)
  local id = json.decode(reply.body).prompt_id
  while true do
    local data, binary = ws:receive(10000)
    assert.is_truthy(data, "the prompt did not end")
    local m = not binary and json.decode(data)
    if m and m.type == "executing" and m.data.node == json.null and m.data.prompt_id == id then break end
  end
  return fetch(url .. "/history/" .. id)[id]
end

local strange = {
  ["1"] = { class_type = "Load My Model", inputs = { model = "mine.safetensors" } },
  ["2"] = { class_type = "My|Sampler+", inputs = { model = { "1", 0 }, steps = 3, list = { 1, 2, 3 }, on = true } },
  ["3"] = { class_type = "MyEnd", inputs = { x = { "2", 5 } }, _meta = { title = "the end" } },
}

describe("moonpool sim", function()
  it("--port 0 --count 3 prints three addresses, and serves there", function()
    local sim <close> = start(3, "--port", "0", "--count", "3", "--speed", "100")
    local seen = {}
    for i, url in ipairs(sim.urls) do
      assert.matches("^http://127%.0%.0%.1:%d+$", url)
      assert.is_nil(seen[url])
      seen[url] = true
      local stats = fetch(url .. "/system_stats")
      assert.are.equal("0.18.1", stats.system.comfyui_version)
      assert.are.equal("Moonpool Simulated GPU " .. i, stats.devices[1].name)
    end
    assert.are.equal("success", run_on(sim.urls[2], json.decode(H.text_to_image)).status.status_str)
    assert.are.same({}, fetch(sim.urls[1] .. "/history"))
  end)

  it("says version and speed, one speed for each server in turn", function()
    local sim <close> = start(3, "--port", "0", "--count", "3", "--speed", "1,0.5", "--version", "2024-10")
    local speeds = {}
    for v, s in sim.text:gmatch "%(ComfyUI (%S+), speed (%S+)%)" do speeds[#speeds + 1] = v .. " " .. s end
    assert.are.same({ "2024-10 1", "2024-10 0.5", "2024-10 1" }, speeds)
    assert.are.equal("unknown", fetch(sim.urls[3] .. "/system_stats").system.comfyui_version)
  end)

  it("--vram, --costs, --previews", function()
    local sim <close> = start(1, "--port", "0", "--vram", "8", "--costs", '{"EmptyImage": 1, "KSampler": {"ms": 0, "step_ms": 1}}', "--previews", "--speed", "1000")
    assert.are.equal(8 * 1024 ^ 3, fetch(sim.urls[1] .. "/system_stats").devices[1].vram_total)
    assert.are.equal("success", run_on(sim.urls[1], json.decode(H.text_to_image)).status.status_str)
  end)

  it("without --any-node unknown classes are refused; with it they run unchanged, and end in a picture", function()
    do
      local sim <close> = start(1, "--port", "0")
      local reply = assert(moonpool.http.request { method = "POST", url = sim.urls[1] .. "/prompt", body = json.encode { prompt = strange } })
      assert.are.equal(400, reply.status)
    end
    local sim <close> = start(1, "--port", "0", "--any-node", "--any-ms", "10", "--speed", "10")
    local entry = run_on(sim.urls[1], strange)
    assert.are.equal("success", entry.status.status_str)
    assert.are.same(strange, entry.prompt[3])
    local image = entry.outputs["3"].images[1]
    local reply = assert(moonpool.http.request { url = sim.urls[1] .. "/view?filename=" .. image.filename .. "&type=" .. image.type .. "&subfolder=" .. image.subfolder })
    assert.are.equal("\x89PNG", reply.body:sub(1, 4))
  end)

  it("--catalogue takes a saved /object_info", function()
    if not H.has_shared() then return pending "no recordings beside the checkout" end
    local file = dir .. "/object_info.json"
    os.execute(("zcat '%s/recordings/0.18.1/object_info.json.gz' >'%s'"):format(H.shared, file))
    local saved = json.decode(H.read(file))
    local sim <close> = start(1, "--port", "0", "--catalogue", file, "--speed", "1000")
    local given, n, m = fetch(sim.urls[1] .. "/object_info"), 0, 0
    for name in pairs(saved) do
      n = n + 1
      assert.is_truthy(given[name], name)
    end
    for _ in pairs(given) do m = m + 1 end
    assert.are.equal(n, m)
    assert.are.same(saved.KSampler, given.KSampler)
    local workflow = json.decode(H.text_to_image)
    workflow["4"].inputs.ckpt_name = "sd15_test.safetensors"
    assert.are.equal("success", run_on(sim.urls[1], workflow).status.status_str)
  end)

  it("--catalogue that is not there, or none: 1, and why", function()
    local out, rc = run("sim", "--port", "0", "--catalogue", dir .. "/none.json")
    assert.are.equal(1, rc)
    assert.is_truthy(out:find("none.json", 1, true), out)
    H.write(dir .. "/bad.json", "[1, 2")
    out, rc = run("sim", "--port", "0", "--catalogue", dir .. "/bad.json")
    assert.are.equal(1, rc)
    assert.is_true(#out > 0)
  end)

  it("a port that is taken: 1, and which", function()
    local other <close> = assert(moonpool.sim {})
    local out, rc = run("sim", "--port", tostring(other.port))
    assert.are.equal(1, rc)
    assert.is_truthy(out:find(tostring(other.port), 1, true), out)
  end)

  it("an unknown option or a wrong value: 2, with the usage", function()
    for _, args in ipairs { { "--nope" }, { "--port", "x" }, { "--count", "many" }, { "--port" }, { "--speed", "fast" }, { "--port", "0", "stray" } } do
      local out, rc = run("sim", table.unpack(args))
      assert.are.equal(2, rc, table.concat(args, " ") .. ": " .. out)
      assert.is_truthy(out:find("Usage: moonpool sim", 1, true), out)
    end
  end)

  it("a version that is not there: not 0, naming those there are", function()
    local out, rc = run("sim", "--port", "0", "--version", "9")
    assert.is_true(rc == 1 or rc == 2)
    assert.is_truthy(out:find("2024-10", 1, true), out)
  end)

  it("--help: 0 and the usage", function()
    local out, rc = run("sim", "--help")
    assert.are.equal(0, rc)
    assert.matches("^Usage: moonpool sim", out)
    for _, o in ipairs { "--port", "--count", "--speed", "--catalogue", "--any-node" } do assert.is_truthy(out:find(o, 1, true), o) end
  end)

  it("ends with 130 when it is told to stop", function()
    local file = dir .. "/stopped.txt"
    local out = H.run(("%s sim --port 0 >%s 2>&1 & p=$!; i=0; until grep -q listening %s || [ $i -gt 400 ]; do sleep 0.05; i=$((i+1)); done; kill -TERM $p; wait $p; echo code $?"):format(
      H.moonpool, file, file))
    assert.is_truthy(out:find("code 130", 1, true), out)
  end)
end)
