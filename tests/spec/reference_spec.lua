-- The editor types (lua/moonpool/meta) against the code: nothing undocumented, nothing stale; and what is made of them.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"
local core = moonpool.core
local reference = require "moonpool.reference"

after_each(K.clean)

local api = reference.parse(H.read "lua/moonpool/meta/moonpool.lua")
local classes = {}
for _, c in ipairs(api.classes) do classes[c.name:gsub("^moonpool%.", "")] = c end

local function sorted(set)
  local list = {}
  for k in pairs(set) do list[#list + 1] = k end
  table.sort(list)
  return list
end

local function functions_of(owner)
  local set = {}
  for _, f in ipairs(api.functions) do
    if f.owner == owner then set[f.name] = true end
  end
  return set
end

local function public(t)
  local set = {}
  for k, v in pairs(t) do
    if type(k) == "string" and not k:find "^_" and type(v) == "function" then set[k] = true end
  end
  return set
end

local function fields_of(class)
  local set = {}
  for _, f in ipairs(classes[class].fields) do set[f.name] = true end
  return set
end

describe("the editor types have every method, and no other, of", function()
  for owner, class in pairs { Pool = "moonpool.pool", Client = "moonpool.client", Job = "moonpool.job", Workflow = "moonpool.workflow", Sim = "moonpool.sim", Runs = "moonpool.runs" } do
    it(owner, function() assert.same(sorted(public(core.methods(class))), sorted(functions_of(owner))) end)
  end
  it("Task, Channel and Manifest", function()
    local task = moonpool.spawn(function() end)
    assert.same({ "cancel", "wait" }, sorted(public(getmetatable(task).__index)))
    assert.same({ "cancel", "wait" }, sorted(functions_of "Task"))
    assert.same(sorted(public(getmetatable(moonpool.task.channel()).__index)), sorted(functions_of "Channel"))
    local m <close> = moonpool.batch.manifest(H.folder "reference" .. "/m")
    assert.same(sorted(public(getmetatable(m).__index)), sorted(functions_of "Manifest"))
  end)
  it("Result", function()
    local r = K.completed(K.pool_of({ K.sim() }):submit(K.picture()))
    for name in pairs(functions_of "Result") do assert.is_function(r[name], name) end
    for _, f in ipairs(classes.Result.fields) do
      if not f.optional then assert.is_not_nil(r[f.name], f.name) end
    end
  end)
end)

describe("the editor types have every function of", function()
  -- What is for the runtime's own files only.
  local inner = {
    task = { await = true, breathe = true, error = true, may_wait = true, count = true, drain = true, tell_unheard = true, on_idle = true },
    config = {}, workflow = {}, json = {}, http = {}, ws = {}, batch = {}, edit = {}, profiles = {}, report = {}, plan = {},
  }
  for name, hidden in pairs(inner) do
    it("moonpool." .. name, function()
      local want = public(moonpool[name])
      for k in pairs(hidden) do want[k] = nil end
      local owner = name == "json" and "Json" or name == "http" and "HttpLib" or name:sub(1, 1):upper() .. name:sub(2) .. "Lib"
      assert.same(sorted(want), sorted(functions_of(owner)))
    end)
  end
  it("moonpool", function()
    assert.same(sorted(public(moonpool)), sorted(functions_of "moonpool"))
    local tables = {}
    for k, v in pairs(moonpool) do
      if type(v) == "table" and not k:find "^_" and k ~= "core" then tables[k] = true end
    end
    tables._VERSION = true
    assert.same(sorted(tables), sorted(fields_of "moonpool"))
  end)
end)

describe("the editor types have every option of", function()
  local function options_in(file, name)
    local body = assert(H.read(file):match("static const opt " .. name .. "%[%] = {(.-)\n?%s*};"), name)
    local set = {}
    for option in body:gmatch '{ "([%w_]+)", OPT' do set[option] = true end
    return set
  end
  for class, where in pairs {
    PoolOptions = { "src/lua/l_pool.c", "pool_opts" }, ClientOptions = { "src/lua/l_pool.c", "client_opts" }, SubmitOptions = { "src/lua/l_pool.c", "job_opts" },
    SimOptions = { "src/lua/l_sim.c", "sim_opts" }, SimFailOptions = { "src/lua/l_sim.c", "fail_opts" }, SimFramesOptions = { "src/lua/l_sim.c", "frames_opts" }, HttpOptions = { "src/lua/l_net.c", "http_opts" },
    WsOptions = { "src/lua/l_net.c", "ws_opts" },
  } do
    it(class, function() assert.same(sorted(options_in(where[1], where[2])), sorted(fields_of(class))) end)
  end
  it("README's table and lines of options", function()
    local readme = H.read "README.md"
    for _, class in ipairs { "PoolOptions", "ClientOptions", "SubmitOptions", "SimOptions" } do
      for name in pairs(fields_of(class)) do assert.is_truthy(readme:find(name, 1, true), class .. "." .. name .. " is not in the README") end
    end
  end)
end)

describe("the editor types", function()
  it("have every field of a profile, and no other", function()
    local schema = moonpool.json.decode(H.read "src/prof/profile.schema.json")
    local want, logged = {}, { schema = true, label = true, jobId = true, jobStatus = true, jobError = true, clientUrl = true, serverVersion = true, device = true, metadata = true }
    for k in pairs(schema.properties) do
      if not logged[k] then want[k] = true end
    end
    local have = fields_of "Profile"
    for k in pairs(logged) do have[k] = nil end
    assert.same(sorted(want), sorted(have))
    local node = fields_of "Node"
    for k in pairs(schema["$defs"].node.properties) do
      if k ~= "inputs" then assert.is_true(node[k], k) end
    end
  end)

  it("say something of each", function()
    for _, f in ipairs(api.functions) do
      assert.is_true(#f.text > 10, f.owner .. "." .. f.name .. " has no words")
      local given = {}
      for _, p in ipairs(f.params) do given[#given + 1] = p.name end
      assert.equal(f.args:gsub("%s", ""), table.concat(given, ","), f.owner .. "." .. f.name)
    end
    for _, c in ipairs(api.classes) do
      for _, f in ipairs(c.fields) do assert.is_true(#f.type > 0, c.name .. "." .. f.name) end
    end
  end)

  it("are what the README's reference is made from", function()
    local out, code = H.run(H.moonpool .. " scripts/setup.d/readme.lua --check")
    assert.equal(0, code, out)
  end)

  it("have every kind of error, and the README its cause and cure", function()
    local kinds, readme = {}, H.read "README.md"
    local section = readme:match "## Error handling\n(.-)\n## "
    for kind in H.read("lua/moonpool/meta/moonpool.lua"):gmatch '%-%-%-| "([%w_]+)"' do kinds[kind] = true end
    for kind in pairs(kinds) do assert.is_truthy(section:find("`" .. kind .. "`", 1, true), kind) end
    assert.is_true(kinds.csv and kinds.config)
  end)

  it("are Lua", function() assert(loadfile "lua/moonpool/meta/moonpool.lua") end)
end)

describe("moonpool help", function()
  local function help(topic) return H.run(H.moonpool .. " help " .. (topic or "")) end

  it("lists what there is, in 80 columns", function()
    local text, code = help()
    assert.equal(0, code)
    assert.matches("PoolOptions", text)
    assert.matches("moonpool.task.workers", text)
    for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
  end)

  it("tells of classes, functions, methods and options", function()
    assert.matches("\npool:submit%(workflow, options%) %-> Job%?, Error%?", (help "submit"))
    assert.matches("^moonpool.pool%(options%) %-> Pool", (help "moonpool.pool"))
    assert.matches("^pool:submit", (help "pool:submit"))
    assert.matches("SubmitOptions\n", (help "Pool.submit"))
    assert.matches("reload_policy", (help "pool"))
    assert.matches("^PoolOptions.cooldown_ms: number", (help "cooldown_ms"))
    assert.matches("at most n at a%s+time", (help "workers"))
  end)

  it("names the nearest topic", function()
    local text, code = help "cooldwn_ms"
    assert.equal(1, code)
    assert.matches("did you mean 'cooldown_ms'", text)
  end)
end)
