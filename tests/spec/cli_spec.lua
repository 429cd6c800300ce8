-- The commands submit, check and clients; -i; servers from the environment and from files.
local H = require "helper"
local moonpool = require "moonpool"
local json = moonpool.json

local urls, stop, dir                                      -- two servers for all of these specs; a folder for each

local wf = "scripts/workflows/text_to_image.json"

setup(function() urls, stop = H.servers(2) end)
before_each(function() dir = H.folder "cli" end)
teardown(function() stop() end)

-- Without a configuration of the machine's own.
local function run(words, env) return H.run(("(HOME=%s XDG_CONFIG_HOME= MOONPOOL_SERVERS='' %s timeout 60 %s %s)"):format(dir, env or "", H.moonpool, words)) end

describe("moonpool submit", function()
  it("runs every combination, and saves under names with numbers", function()
    local out, code = run(("submit %s --server %s --server %s --set Sampler.steps=5 --sweep Sampler.cfg=3,5.5 --sweep 'Positive.text=a\\, b,c' --count 2 --out %s/out --json 2>%s/err"):format(wf, urls[1], urls[2], dir, dir))
    assert.equal(0, code, out)
    local sets, seeds = {}, {}
    for line in out:gmatch "[^\n]+" do
      local x = json.decode(line)
      assert.equal("completed", x.status)
      sets[#sets + 1] = ("%s %s"):format(x.set["3.cfg"], x.set["6.text"])
      assert.equal(1, #x.files)
      assert.matches(("^%s/out/%d_picture_"):format(dir:gsub("%p", "%%%0"), x.number), x.files[1])
      assert.equal("\137PNG", H.read(x.files[1]):sub(1, 4))
      seeds[#seeds + 1] = next(x.seeds or {})
    end
    table.sort(sets)
    assert.same({ "3 a, b", "3 a, b", "3 c", "3 c", "5.5 a, b", "5.5 a, b", "5.5 c", "5.5 c" }, sets)
    assert.equal(8, #seeds)
    assert.matches("8 jobs in .*: 8 completed, 0 failed", H.read(dir .. "/err"))
  end)

  it("--dry-run prints what would be sent, and sends nothing", function()
    local out, code = run(("submit %s --sweep 3.steps=1..9:4 --seed 100 --set-file 6.text=%s/text --dry-run 2>/dev/null"):format(wf, (function() H.write(dir .. "/text", "from a file\n") return dir end)()))
    assert.equal(0, code)
    local steps = {}
    for line in out:gmatch "[^\n]+" do
      local x = json.decode(line)
      steps[#steps + 1] = x["3"].inputs.steps
      assert.same({ 100, "from a file" }, { x["3"].inputs.seed, x["6"].inputs.text })
    end
    assert.same({ 1, 5, 9 }, steps)
  end)

  it("sends a picture", function()
    run(("submit %s --server %s --out %s/in --name one.png"):format(wf, urls[1], dir))
    local out, code = run(("submit scripts/workflows/image_to_image.json --server %s --image Picture.image=%s/in/one.png --out %s/out"):format(urls[1], dir, dir))
    assert.equal(0, code, out)
    assert.matches("redrawn_00001_.png", out)
  end)

  it("draws a bar on a terminal, and takes it away at the end", function()
    if not os.execute "command -v script >/dev/null" then pending "script(1) is needed for a terminal" end
    local words = ("submit %s --server %s --count 3 --out %s/out"):format(wf, urls[1], dir)
    local out = H.run(("HOME=%s XDG_CONFIG_HOME= MOONPOOL_SERVERS='' timeout 60 script -qec '%s %s' /dev/null </dev/null"):format(dir, H.moonpool, words))
    for done = 1, 3 do assert.matches(("\r\27[K" .. dir .. "/out/%d_picture_00001_.png"):format(done), out:gsub("_0000%d", "_00001"), 1, true) end
    assert.matches("\r\27%[K%[#+%.+%] 1/3, %d+ s left\r\27%[K", out)
    assert.matches("\r\27%[K%[#+%] 3/3, 0 s left\r\27%[K3 jobs in", out)
    assert.is_nil(run(words):find("\27", 1, true))     -- and nothing of it elsewhere
  end)

  it("prints the report of one job, a summary of several, or the report asked for", function()
    assert.matches("Performance report", (run(("submit %s --server %s"):format(wf, urls[1]))))
    assert.matches("2 completed", (run(("submit %s --server %s --count 2"):format(wf, urls[1]))))
    assert.matches("slowest:", (run(("submit %s --server %s --report scripts/report_short.lua"):format(wf, urls[1]))))
  end)

  it("takes policies, a log with a label, and a seed", function()
    local out, code = run(("submit %s --server %s --policy scripts/policies/house_style.lua --policy first_free --profile-log %s/log --label here --seed 7 --json 2>/dev/null"):format(wf, urls[1], dir))
    assert.equal(0, code, out)
    local line = json.decode(H.read(dir .. "/log"))
    assert.equal("here", line.label)
    for _, n in ipairs(line.nodes) do
      if n.nodeId == "6" then assert.matches("film grain", n.inputs.text) end
      if n.nodeId == "3" then assert.equal(7, n.inputs.seed) end
    end
  end)

  it("fails with 1 when a job does, with its words", function()
    local out, code = run(("submit %s --server %s --set 4.ckpt_name=none.safetensors"):format(wf, urls[1]))
    assert.equal(1, code)
    assert.matches("job 1 failed: .*none.safetensors", out)
    out, code = run(("submit %s --server http://127.0.0.1:1"):format(wf))
    assert.equal(1, code)
    assert.matches("no client could be reached", out)
  end)

  for words, wanted in pairs {
    ["--set Sampler.stps=3"] = "node 3 %(KSampler%) has no input 'stps' %(did you mean 'steps'%?%)", ["--set Samplr.steps=3"] = "no node 'Samplr' %(did you mean 'Sampler'%?%)",
    ["--set CLIPTextEncode.text=x"] = "2 nodes have the class 'CLIPTextEncode': say which by id %(6, 7%)", ["--set 3.steps=many"] = "3.steps: a number expected, got 'many'",
    ["--set steps"] = "NODE.input=value expected", ["--sweep 3.steps=1..9:0"] = "never ends", ["--count 0"] = "a whole number from 1", ["--count x"] = "a whole number from 1",
    ["--seed x"] = "%-%-seed: a whole number from 0 to 2%^64%-1, or random", ["--image Picture.image=no.png"] = "no node 'Picture'", ["--set-file 6.text=/no/such"] = "/no/such",
    ["--policy no_such"] = "no policy called 'no_such'", ["--report no/such.lua"] = "cannot be read", [""] = "no server", ["--server nonsense"] = "http", ["--api-key-file /no/such"] = "/no/such",
    ["--wrong"] = "unknown option", ["--name '{bogus}'"] = "there is no {bogus}", ["--sweep 3.cfg=1,2 --sweep KSampler.cfg=3"] = "3.cfg: it is swept already",
    ["--api-key-env NO_SUCH_VARIABLE"] = "no variable NO_SUCH_VARIABLE", ["--priority 1e400"] = "%-%-priority: a number", ["--image KSampler.steps="] = "NODE.input=FILE expected",
  } do
    it("refuses " .. (words == "" and "no server" or words), function()
      local needs = words ~= "" and not words:find "--server" and " --server " .. urls[1] or ""
      local out, code = run(("submit %s %s%s"):format(wf, words, needs))
      assert.equal(2, code, out)
      assert.matches(wanted, out)
      assert.is_nil(out:find("traceback", 1, true), out)
    end)
  end
end)

describe("servers and keys come from", function()
  it("MOONPOOL_SERVERS", function()
    local out, code = run(("submit %s --json 2>/dev/null"):format(wf), "MOONPOOL_SERVERS=" .. urls[2])
    assert.equal(0, code, out)
    assert.equal(urls[2]:match "//(.*)", json.decode(out).client)
  end)

  it("a moonpool.lua of the folder, or of ~/.config/moonpool", function()
    os.execute("mkdir -p " .. dir .. "/.config/moonpool")
    H.write(dir .. "/key", "secret\n")
    H.write(dir .. "/.config/moonpool/moonpool.lua", ("return { servers = { { url = %q, name = 'mine', bearer_file = %q, api_key_env = 'KEY' } }, submit = { out = %q } }"):format(urls[1], dir .. "/key", dir .. "/out"))
    local out, code = run(("submit %s"):format(wf), "KEY=k")
    assert.equal(0, code, out)
    assert.matches(dir:gsub("%p", "%%%0") .. "/out/1_picture", out)
    assert.matches("Client:      mine", out)
    out = run(("submit %s"):format(wf))
    assert.matches("api_key_env: the environment has no variable KEY", out)
  end)

  for text, words in pairs {
    ["return 5"] = "must return a table", ["return { server = {} }"] = "unknown field 'server' %(did you mean 'servers'%?%)", ["return { servers = 'x' }"] = "servers: a table expected, got string",
    ["return { servers = { 5 } }"] = "servers%[1%]: a URL", ["return {"] = "moonpool.lua:1:", ["while true do end"] = "takes too long", ["os.execute 'x'"] = "nil value",
  } do
    it("a file that is wrong is told: " .. text, function()
      os.execute("mkdir -p " .. dir .. "/.config/moonpool")
      H.write(dir .. "/.config/moonpool/moonpool.lua", text)
      local out, code = run "clients"
      assert.equal(2, code, out)
      assert.matches(words, out)
    end)
  end
end)

describe("moonpool check", function()
  it("finds nothing wrong with what is right", function()
    local out, code = run(("check %s --server %s"):format(wf, urls[1]))
    assert.same({ 0, true }, { code, out:find("nothing is wrong", 1, true) ~= nil }, out)
    assert.equal(0, (select(2, run("check " .. wf))))
  end)

  it("names every problem, with the nearest valid name", function()
    H.write(dir .. "/bad.json", [[{"1": {"class_type": "CheckpointLoaderSimpl", "inputs": {"ckpt_name": "x"}},
      "2": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 0, "cfg": 7, "sampler_name": "eulr", "scheduler": "normal", "denoise": 1, "model": ["1", 0],
        "positive": ["99", 0], "negative": ["4", 0], "latent_image": ["4", 0], "stps": 3}},
      "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["5", 0], "text": ["2", 3]}}, "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0]}}}]])
    local out, code = run(("check %s/bad.json --server %s"):format(dir, urls[1]))
    assert.equal(1, code)
    for _, words in ipairs {
      "no such class %(did you mean 'CheckpointLoaderSimple'%?%)", "LATENT expected, and node 4 %(CLIPTextEncode%) gives CONDITIONING", "node 99, which does not exist",
      "'eulr' is none of the values .*did you mean 'euler'", "0 is less than the least value, 1", "no such input %(did you mean 'steps'%?%)", "has no output 3, it has 1",
      "input vae: it is required", "no node is an output", "it depends on itself",
    } do assert.matches(words, out) end
    out, code = run(("check %s/bad.json --json"):format(dir))
    assert.equal(1, code)
    assert.is_string(json.decode(out:match "^[^\n]+").message)
  end)

  it("knows what comes by links and what is written down", function()
    local doc = json.decode(H.read(wf))
    doc["3"].inputs.model, doc["3"].inputs.steps, doc["8"] = 5, 1.5, 5
    H.write(dir .. "/types.json", json.encode(doc))
    local out, code = run(("check %s/types.json --server %s"):format(dir, urls[1]))
    assert.equal(1, code)
    for _, words in ipairs { "a link to a node that gives MODEL expected, got 5", "a whole number expected, got 1.5", "node 8: it is no object", "linked to node 8, which is no object" } do assert.matches(words, out) end
  end)

  it("says what it cannot read", function()
    for words, wanted in pairs { ["README.md"] = "no valid JSON", ["/no/such"] = "No such file", [wf .. " --server http://127.0.0.1:1"] = "127.0.0.1:1" } do
      local out, code = run("check " .. words)
      assert.equal(2, code, out)
      assert.matches(wanted, out)
    end
    H.write(dir .. "/ui.json", '{"nodes": [], "links": []}')
    local out, code = run("check " .. dir .. "/ui.json")
    assert.equal(1, code)
    assert.matches("UI format", out)
  end)
end)

describe("moonpool clients", function()
  it("says what each server is, has and does", function()
    local out, code = run(("clients %s %s"):format(urls[1], urls[2]))
    assert.equal(0, code, out)
    for _, words in ipairs { "ComfyUI%s+0.18.1", "24.0 GB VRAM", "queue%s+0 running, 0 waiting", "checkpoints%s+4: sd15.safetensors" } do assert.matches(words, out) end
    out, code = run(("clients %s http://127.0.0.1:1 --json"):format(urls[1]))
    assert.equal(1, code)
    local first, second = out:match "^([^\n]+)\n([^\n]+)"
    assert.equal("0.18.1", json.decode(first).version)
    assert.is_string(json.decode(second).error)
  end)
end)

describe("moonpool -i", function()
  it("takes lines as lua does, and lets tasks run while it waits for more", function()
    H.write(dir .. "/lines", "x = 5\nx * 2\nfor i = 1, 2 do\nprint(i)\nend\nmoonpool.spawn(function() moonpool.sleep(1) print 'task' end)\n")
    local out, code = H.run(("(cat %s/lines; while ! grep -q ^task %s/out; do sleep 0.01; done; echo 'print(\"last\")') | timeout 20 %s -i > %s/out; cat %s/out"):format(dir, dir, H.moonpool, dir, dir))
    assert.equal(0, code)
    assert.matches("^10\n1\n2\nmoonpool.task: %S+\ntask\nlast\n$", out)
  end)

  it("tells errors and goes on; after a script; from a plain file", function()
    H.write(dir .. "/lines", "error 'no'\nx = 1 +\n2\nx\n)\nreturn y")
    H.write(dir .. "/s.lua", "y = 'from the script'")
    local out, code = H.run(("%s -i %s/s.lua < %s/lines"):format(H.moonpool, dir, dir))
    assert.equal(0, code)
    for _, words in ipairs { "no\nstack traceback", "\n3\n", "unexpected symbol near '%)'", "from the script\n$" } do assert.matches(words, out) end
  end)
end)

describe("a script that is none", function()
  it("is told what it is, and what would run it", function()
    H.write(dir .. "/p.png", "\137PNG\r\n\26\n\0\0")
    H.write(dir .. "/b.lua", "x\0y")
    for words, wanted in pairs {
      [dir .. "/p.png"] = "is a picture; the workflow in it is run by: moonpool submit", [wf] = "is JSON; a workflow is run by: moonpool submit", [dir .. "/b.lua"] = "is no text",
      ["submt x"] = "did you mean the command 'submit'%?", ["no.lua"] = "cannot open no.lua",
    } do
      local out, code = run(words)
      assert.equal(1, code)
      assert.matches(wanted, out)
    end
  end)
end)

describe("every command", function()
  it("explains itself with --help, and refuses wrong options with 2", function()
    for _, name in ipairs { "submit", "check", "clients", "sim", "report", "compare", "plan" } do
      local out, code = run(name .. " --help")
      assert.equal(0, code, out)
      assert.matches("^Usage: moonpool " .. name, out)
      out, code = run(name .. " --no-such-option")
      assert.equal(2, code, out)
      assert.is_nil(out:find("traceback", 1, true), out)
    end
    assert.matches("Exit codes", (run "--help"))
  end)

  it("moonpool run takes a script whose name is that of a command", function()
    H.write(dir .. "/submit", "print('ran', ...)")
    local out = H.run(("cd %s && %s/%s run submit a b"):format(dir, io.popen("pwd"):read "l", H.moonpool))
    assert.equal("ran\ta\tb\n", out)
  end)
end)
