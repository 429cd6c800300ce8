-- Policy files and report files that try to get out of their limits; loading again; limits as options.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"

after_each(K.clean)

local function file(text, name)
  local path = H.folder(name or "policy") .. "/policy.lua"
  H.write(path, text)
  return path
end

-- One job through a pool with this policy; its result, and the errors that were logged.
local function through(policy, options)
  local o = { policy = policy, policy_faults = 1 }
  for k, v in pairs(options or {}) do o[k] = v end
  local pool, told = K.pool_of({ K.sim() }, o), {}
  pool:on("error", function(e) told[#told + 1] = e.message end)
  local r = K.completed(pool:submit(K.picture()))
  K.till("it is told", function() return #told > 0 end)
  return r, table.concat(told, "\n"), pool
end

local FAR = ""                                             -- [1]=1,[2]=1,[4]=1, ...: its length is said to be enormous
for i = 0, 29 do FAR = FAR .. ("[%d]=1,"):format(1 << i) end

describe("a policy file cannot stop the pool by", function()
  local bodies = {
    ["a handler of xpcall"] = { "xpcall(function() while true do end end, function() while true do end end)", "xpcall" },
    ["a finalizer in a metatable of ours"] = { "getmetatable(job).__gc = function() while true do end end", "boolean value" },
    ["a finalizer in a list's metatable"] = { "getmetatable(job.metadata.list).__gc = function() while true do end end", "boolean value" },
    ["repeating nothing"] = { "(''):rep(1e15)", "1 MiB" },
    ["table.concat that calls itself"] = { "table.concat(setmetatable({}, { __index = table.concat }), '', 1, math.maxinteger)", "__index" },
    ["table.concat of a range"] = { "table.concat({}, '', 1, math.maxinteger)", "at most" },
    ["a table with a far border"] = { "local t = { " .. FAR .. " } table.sort(t, pcall)", "at most" },
    ["a pattern that goes back and forth"] = { "(('a'):rep(60000)):find('.-b')", "repetitions" },
    ["a pattern of brackets"] = { "(('('):rep(60000)):find('%b()')", "repetitions" },
    ["input without end"] = { "local t = {} for _ = 1, 40 do t = { t, t } end wf:input('6', 'text', t)", "so much" },
    ["much input"] = { "for i = 1, 100 do wf:input('6', 'x' .. i, ('x'):rep(1 << 20)) end", "16 MiB" },
    ["reading files"] = { "wf:_attach('6', 'text', { path = '/etc/passwd', name = 'x.png' })", "_attach" },
    ["keeping workflows"] = { "wf:clone()", "clone" },
    ["a module that requires itself"] = { "require 'policy'; error 'done'", "done" },
  }
  for name, b in pairs(bodies) do
    it(name, function()
      local pool, told = K.pool_of({ K.sim() }, { policy_faults = 1, policy = file("local function f(job, client, wf) " .. b[1] .. " end return { mutate = f }") }), nil
      pool:on("error", function(e) told = told or e.message end)
      K.completed(pool:submit(K.picture(), { metadata = { list = { 1, 2 } } }))
      K.till("it is told", function() return told end)
      assert.matches(b[2], told)
      assert.matches("stack traceback", told)
    end)
  end

  it("many calls that are slow in C, or one", function()
    for _, body in ipairs { "local s = ('a'):rep(7000) for _ = 1, 1000 do s:find('.-b') end", "local s, t = ('a'):rep(1 << 20), {} for i = 1, 30000 do t[i] = s end table.sort(t)" } do
      local began = moonpool.core.cpu_ms()
      local _, told = through(file("return { route = function() " .. body .. " end }"))
      assert.matches("CPU", told)
      assert.is_true(moonpool.core.cpu_ms() - began < 20000)
    end
  end)

  it("names of outputs", function()
    local _, told = through(file "return { mutate = function(_, _, wf) for i = 1, 100 do wf:output(('x'):rep(1 << 20) .. i, '9') end end }")
    assert.matches("16 MiB", told)
  end)

  it("what is slow in C: CPU counts as well as instructions", function()
    local began = moonpool.core.cpu_ms()
    local _, told = through(file "return { route = function() local s = ('x'):rep(1 << 20) while true do local _ = s .. s end end }")
    assert.matches("CPU", told)
    assert.is_true(moonpool.core.cpu_ms() - began < 20000)
  end)
end)

describe("a policy", function()
  it("logs the same error once, and is switched off aloud after as many as the option says", function()
    local told = {}
    local pool = K.pool_of({ K.sim() }, { policy_faults = 3, policy = { route = function() return 5 end } })
    pool:on("error", function(e) told[#told + 1] = e.message end)
    for i = 1, 5 do K.completed(pool:submit(K.picture(i))) end
    K.till("it is switched off", function() return #told > 1 end)
    assert.equal(2, #told)
    assert.matches("returned nonsense", told[1])
    assert.matches("switched off after 3 errors", told[2])
  end)

  it("has limits as options", function()
    local _, told = through(file "return { route = function() for _ = 1, 2000 do end end }", { policy_instructions = 1000 })
    assert.matches("budget", told)
    _, told = through(file "return { route = function() local t = {} for i = 1, 1e5 do t[i] = i end end }", { policy_memory_mb = 1 })
    assert.matches("not enough memory", told)
    for name, value in pairs { policy_instructions = 1, policy_memory_mb = 0, policy_faults = 0 } do
      assert.error_matches(function() moonpool.pool { [name] = value } end, "option '" .. name .. "'")
    end
  end)

  it("that does not fit is refused in words", function()
    local loop = {}
    loop[1] = loop
    for words, policy in pairs {
      ["8 deep"] = loop, ["unknown hook 'rout'"] = file("return { rout = function() end }", "one"), ["hook 'route': a function expected, got number"] = file("return { route = 5 }", "two"),
      ["longer than 1 MiB"] = file(("-"):rep(2 << 20), "three"), ["cannot be read"] = H.folder "four" .. "/", ["a name and a list in one"] = { "default", "first_free", a = 1 },
    } do
      assert.error_matches(function() moonpool.pool { policy = policy } end, words, 1, true)
    end
  end)

  it("may begin with a byte order mark and #!", function()
    K.completed(K.pool_of({ K.sim() }, { policy = file "\239\187\191#! moonpool\nreturn {}" }):submit(K.picture()))
  end)

  it("leaves the budget of another pool's policy alone", function()
    local inner = K.pool_of({ K.sim() }, { policy = { admit = function() end } })
    local _, told = through { route = function()
      inner:submit(K.picture(2))
      while true do end
    end }
    assert.matches("budget", told)
  end)

  it("keeps an empty shell of a workflow when the call is over", function()
    local kept
    local pool = K.pool_of({ K.sim() }, { policy = { mutate = function(_, _, wf) kept = wf end } })
    K.completed(pool:submit(K.picture()))
    assert.error_matches(function() kept:input("6", "text") end, "closed")
  end)
end)

describe("what a policy keeps beyond its call", function()
  -- A pool whose policy file looks at what it kept at the first job, at every later one.
  local function keeping(what)
    local pool, a, b = K.pool_of({ { K.sim(), { name = "a", priority = 1 } }, { K.sim(), { name = "b" } } },
      { completed_retention = 1, policy_faults = 9, policy = file("local kept\nreturn { route = function(job, clients) if kept then local _ = kept.name, kept.id, kept.attempts end\nkept = kept or " .. what .. " end }") })
    local told = {}
    pool:on("error", function(e) told[#told + 1] = e.message end)
    return pool, told, a, b
  end

  local function first_then_more(pool, between)
    K.completed(pool:submit(K.picture()))
    between()
    for i = 2, 4 do K.completed(pool:submit(K.picture(i))) end
  end

  it("raises when it is a client that is gone, and the built-in choice is used", function()
    local pool, told, a = keeping "clients[1]"
    first_then_more(pool, function()
      assert.is_true(a:remove())
      K.till("it is gone", function() return #pool:clients() == 1 end)
    end)
    K.till("it is told", function() return #told > 0 end)
    assert.matches("this client is gone", told[1])
    assert.matches("stack traceback", told[1])
    assert.equal(1, #told)                             -- the same words are counted, not logged again
  end)

  it("raises when it is a job whose record was dropped", function()
    local pool, told = keeping "job"
    first_then_more(pool, function()
      K.completed(pool:submit(K.picture(9)))
      collectgarbage()                                 -- a handle of the user's keeps a record
    end)
    K.till("it is told", function() return #told > 0 end)
    assert.matches("this job is gone", told[1])
  end)

  it("still shows a job that has ended, while its record is kept", function()
    local pool, told = K.pool_of({ K.sim() }, { policy = file "local first\n\
      return { rank = function(job) if first then return first.attempts == 1 and first.status == 'completed' and 1 or error 'it is another' end\nfirst = job end }" }), {}
    pool:on("error", function(e) told[#told + 1] = e.message end)
    for i = 1, 3 do K.completed(pool:submit(K.picture(i))) end
    assert.same({}, told)
  end)
end)

describe("pool:reload_policy", function()
  it("loads the files again, all of them or none", function()
    local path = file "return { mutate = function(_, _, wf) wf:input('6', 'text', 'one') end }"
    local pool = K.pool_of({ K.sim() }, { policy = { path, "first_free" } })
    local function text() return K.completed(pool:submit(K.picture())).workflow:input("6", "text") end
    assert.equal("one", text())
    H.write(path, "return { mutate = function(_, _, wf) wf:input('6', 'text', 'two') end }")
    assert.equal("one", text())
    assert.is_true(pool:reload_policy())
    assert.equal("two", text())
    H.write(path, "return { mutate = ")
    local ok, err = pool:reload_policy()
    assert.is_nil(ok)
    assert.equal("policy", err.kind)
    assert.matches("policy.lua:1:", err.message)
    assert.equal("two", text())
    os.remove(path)
    assert.matches("cannot be read", select(2, pool:reload_policy()).message)
    assert.equal("two", text())
  end)

  it("is refused from inside a policy", function()
    local words
    local pool
    pool = K.pool_of({ K.sim() }, { policy = { route = function() words = select(2, pool:reload_policy()).message end } })
    K.completed(pool:submit(K.picture()))
    assert.matches("from inside", words)
  end)

  it("happens at SIGHUP", function()
    local dir = H.folder "hup"
    H.write(dir .. "/p.lua", "return { mutate = function(_, _, wf) wf:input('1', 'a', 'one') end }")
    H.write(dir .. "/s.lua", [[
      local moonpool = require "moonpool"
      local s <close> = moonpool.sim { any_node = true, any_ms = 0.1, speed = 1000 }
      local pool <close> = moonpool.pool {}
      pool:add_client(s.url)
      local function a() return pool:submit(moonpool.workflow.from { ["1"] = { class_type = "X", inputs = { a = 1 } } }):wait().workflow:input("1", "a") end
      print(a())
      local f = io.open(arg[1], "w")
      f:write("return { mutate = function(_, _, wf) wf:input('1', 'a', 'two') end }")
      f:close()
      os.execute("kill -HUP $PPID")
      local now
      repeat now = a() until now == "two"
      print(now)
    ]])
    local out, code = H.run(("timeout 20 %s --policy %s/p.lua %s/s.lua %s/p.lua"):format(H.moonpool, dir, dir, dir))
    assert.same({ 0, "one" }, { code, out:match "^%a+" }, out)
    assert.matches("policy loaded again\ntwo\n$", out)
  end)
end)

describe("--policy, again and again", function()
  it("gives pools a list: the first that has an answer wins", function()
    local dir = H.folder "list"
    H.write(dir .. "/none.lua", "return { rank = function() end }")
    H.write(dir .. "/no.lua", "return { admit = function() return false, 'because' end }")
    H.write(dir .. "/s.lua", [[
      local moonpool = require "moonpool"
      local pool <close> = moonpool.pool {}
      print(pool:submit(moonpool.workflow.from { ["1"] = { class_type = "X", inputs = {} } }))
    ]])
    local out = H.run(("%s --policy %s/none.lua --policy %s/no.lua %s/s.lua"):format(H.moonpool, dir, dir, dir))
    assert.matches("because", out)
  end)
end)

describe("a report file", function()
  local profile
  local function bad(body)
    profile = profile or K.completed(K.pool_of({ K.sim() }):submit(K.picture())).profile
    local fn = assert(moonpool.report.load(file("return function(p) " .. body .. " end", "report"), { instructions = 200000, memory_mb = 8 }))
    return fn(profile)
  end

  it("gives its text, and is called with the whole profile", function()
    assert.equal("completed 7", bad "local n = 0 for _, x in ipairs(p.nodes) do if x.status == 'completed' then n = n + 1 end end return 'completed ' .. n")
  end)

  for name, body in pairs {
    ["loops"] = "while true do end", ["loops against pcall"] = "while true do pcall(error) end", ["eats memory"] = "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
    ["recurses"] = "local function f() return 1 + f() end return f()", ["repeats"] = "return ('x'):rep(1e9)", ["gives a number"] = "return 5", ["raises a table"] = "error {}",
    ["raises what cannot be told"] = "error(setmetatable({}, { __tostring = function() error 'x' end }))", ["matches for ever"] = "return (('a'):rep(60000)):match('.-.-b')",
    ["wants files"] = "return io.open('/etc/passwd'):read 'a'",
  } do
    it("that " .. name .. " is answered by the built-in text", function()
      assert.matches("^Performance report\n", bad(body))
    end)
  end

  it("that does not load is nil and words", function()
    for text, words in pairs { ["return 5"] = "must return a function", ["return {"] = "policy.lua:1:", ["error 'at load'"] = "at load" } do
      local fn, why = moonpool.report.load(file(text, "report"))
      assert.is_nil(fn)
      assert.matches(words, why)
    end
    assert.matches("no report called 'nobody'", select(2, moonpool.report.load "nobody"))
    assert.matches("cannot be read", select(2, moonpool.report.load "no/such.lua"))
  end)

  it("named by --report is moonpool.report.default", function()
    local path = file("return function(p) return 'mine' end", "report")
    assert.equal("mine\n", (H.run(("%s --report %s -e 'print(require \"moonpool\".report.default {})'"):format(H.moonpool, path))))
    local out, code = H.run(H.moonpool .. " --report no/such.lua -e 'x = 1'")
    assert.equal(2, code)
    assert.matches("cannot be read", out)
  end)
end)
