-- tests/spec/graph_spec.lua: workflows as values: where they come from, how they change, their hash, and what is refused.
-- Runs under stock Lua too.
local moonpool = require "moonpool"
local H = require "helper"
local json, W = moonpool.json, moonpool.workflow

local function from(text) return assert(W.from(text)) end

-- One node of class A with the given inputs, as JSON text; a second node "2" to link to.
local function with(inputs) return '{"1":{"class_type":"A","inputs":' .. inputs .. '},"2":{"class_type":"B","inputs":{}}}' end

local function refused(source, ...)
  local w, err = W.from(source)
  assert.is_nil(w)
  assert.is_table(err)
  for _, words in ipairs { ... } do assert.matches(words, err.message, 1, true) end
  return err
end

local function u32(n) return string.pack(">I4", n) end

-- PNG bytes of one pixel with these chunks (type, data) behind the header. Sums are not looked at by the reader.
local function png(...)
  local parts = { "\x89PNG\r\n\x1a\n", u32(13), "IHDR", u32(1), u32(1), "\8\2\0\0\0", u32(0x907753DE) }
  for _, c in ipairs { ... } do parts[#parts + 1] = u32(#c[2]) .. c[1] .. c[2] .. u32(0) end
  parts[#parts + 1] = u32(0) .. "IEND" .. u32(0xAE426082)
  return table.concat(parts)
end

local function unbase64(text)
  local set, out, v, bits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", {}, 0, 0
  for c in text:gmatch "[%w+/]" do
    v, bits = (v << 6 | set:find(c, 1, true) - 1) & 0xffffff, bits + 6
    if bits >= 8 then
      bits = bits - 8
      out[#out + 1] = string.char(v >> bits & 255)
    end
  end
  return table.concat(out)
end

describe("a workflow comes from", function()
  it("text", function()
    local w = from(H.text_to_image)
    local nodes = w:nodes()
    assert.equal(7, #nodes)
    assert.same({ id = "4", class = "CheckpointLoaderSimple" }, nodes[1])
    assert.same({ id = "6", class = "CLIPTextEncode", title = "Positive" }, nodes[3])
    assert.matches("7 nodes", tostring(w))
  end)

  it("a table, exact integers and links included", function()
    local w = from { ["1"] = { class_type = "A", inputs = { seed = json.number "18446744073709551615", low = math.mininteger, x = { "2", 0 }, list = json.array() } },
                     ["2"] = { class_type = "B", inputs = {} } }
    local text = w:to_json()
    for _, part in ipairs { '"seed":18446744073709551615', '"low":-9223372036854775808', '"x":["2",0]', '"list":[]' } do assert.matches(part, text, 1, true) end
    assert.equal(w.structure_hash, from(text).structure_hash)
  end)

  it("a table that was decoded", function()
    local w = from(json.decode(H.text_to_image))
    assert.equal(from(H.text_to_image).structure_hash, w.structure_hash)
  end)

  it("a file", function()
    local path = H.folder "graph" .. "/w.json"
    H.write(path, H.text_to_image)
    assert.equal(from(H.text_to_image):to_json(), assert(W.load(path)):to_json())
  end)

  it("a file that is not there: nil and words, with the path", function()
    local w, err = W.load(H.build .. "/tmp/no such file.json")
    assert.is_nil(w)
    assert.equal("io", err.kind)
    assert.matches("no such file.json", tostring(err), 1, true)
  end)

  it("a file that is something else: words with the path and the reason", function()
    local path = H.folder "graph" .. "/notes.txt"
    H.write(path, "hello")
    local w, err = W.load(path)
    assert.is_nil(w)
    assert.matches("notes.txt: no valid JSON: .* line 1, column 1", err.message)
    local _, folder = W.load(H.build)
    assert.equal("io", folder.kind)
  end)

  it("the prompt chunk of a PNG", function()
    local text = from(H.text_to_image):to_json()
    assert.equal(text, from(png({ "tEXt", "workflow\0{}" }, { "tEXt", "prompt\0" .. H.text_to_image })):to_json())
    assert.equal(text, from(png({ "iTXt", "prompt\0\0\0en\0prompt\0" .. H.text_to_image })):to_json())
  end)

  it("a PNG that a real ComfyUI wrote", function()
    if not H.has_shared() then return pending "no ../shared folder" end
    for _, version in ipairs { "0.18.1", "2024-10" } do
      local sent, bytes
      for line in io.lines(H.shared .. "/recordings/" .. version .. "/normal_run.jsonl") do
        local l = json.decode(line)
        if l.path == "/prompt" then sent = l.request_json.prompt end
        if l.response_base64 then bytes = unbase64(l.response_base64) end
      end
      local path = H.folder "graph" .. "/normal_00001_.png"
      H.write(path, bytes)
      local w = assert(W.load(path))
      assert.same(sent, json.decode(w:to_json()))
      assert.equal(1001, w:input("1", "color"))
    end
  end)

  it("a PNG that a simulated server wrote", function()
    local sim <close> = assert(moonpool.sim { speed = 1000 })
    local pool <close> = moonpool.pool { log_level = "error" }
    assert(pool:add_client(sim.url))
    local sent = from(H.text_to_image):input("3", "seed", json.number "18446744073709551615"):output("final", "9")
    local result = pool:submit(sent):wait()
    assert.equal("completed", result.status)
    assert.same(result.outputs["9"], result.outputs.final)
    local paths = assert(result:save(H.folder "graph"))
    assert.equal(1, #paths)
    sent:input("3", "cfg", json.number "7.0"):input("3", "denoise", json.number "1.0")    -- a server writes FLOATs as such
    assert.equal(sent:to_json(), assert(W.load(paths[1])):to_json())
  end)

  it("no PNG without a prompt, and the words say why", function()
    refused(png(), "holds no workflow", '"prompt"')
    refused(png { "tEXt", "parameters\0a lighthouse, steps: 20" }, "holds no workflow")
    refused(png { "tEXt", 'workflow\0{"nodes":[]}' }, "UI format only")
    refused(png { "tEXt", "prompt\0{" }, "no valid JSON")
    refused("\x89PNG\r\n\x1a\n", "holds no workflow")
  end)

  it("no PNG that is cut off, wherever", function()
    local whole = png { "tEXt", "prompt\0" .. '{"1":{"class_type":"A","inputs":{}}}' }
    for n = 1, #whole - 12 do
      local w = W.from(whole:sub(1, n))
      if n < #whole - 12 - 4 then assert.is_nil(w) end
    end
    assert.is_nil((W.from("\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtprompt\0{}")))
  end)

  it("nothing else: raises, and names what is expected", function()
    for _, v in ipairs { 3, true, print } do assert.error_matches(function() W.from(v) end, "table expected") end
    assert.has_error(function() W.from() end)
    assert.error_matches(function() W.load() end, "a path expected")
  end)
end)

describe("to_json", function()
  it("leaves every integer from -2^63 to 2^64-1 as it was", function()
    for _, n in ipairs { "0", "-1", "9007199254740993", "-9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551614",
                         "18446744073709551615" } do
      assert.equal(with('{"seed":' .. n .. "}"), from(with('{ "seed" : ' .. n .. " }")):to_json())
      local w = from(with '{"seed":1}'):input("1", "seed", json.number(n))
      assert.equal(with('{"seed":' .. n .. "}"), w:to_json())
    end
  end)

  it("leaves floats as they were written", function()
    local inputs = '{"a":7.0,"b":0.10,"c":1e-7,"d":-0.0,"e":1E+22,"f":0.30000000000000004,"g":NaN,"h":[1.0,2.50,3]}'
    assert.equal(with(inputs), from(with(inputs)):to_json())
  end)

  it("keeps order, empty arrays, nulls, escapes and _meta", function()
    local text = [[{"b":{"class_type":"A","inputs":{"z":null,"a":[],"o":{},"s":"é \"q\"\n"},"_meta":{"title":"T","x":[1]}},"1":{"class_type":"B","inputs":{}}}]]
    assert.equal(text, from(text):to_json())
  end)

  it("gives text that is the same workflow again", function()
    local w = from(H.text_to_image):input("3", "seed", 5):input("9", "new", true):input("5", "extra", { "4", 0 })
    assert.equal(w:to_json(), from(w:to_json()):to_json())
    assert.equal(w.structure_hash, from(w:to_json()).structure_hash)
  end)

  it("holds many changed and many new inputs, each in its place", function()
    local w = from(H.text_to_image)
    for i = 1, 40 do w:input("3", "new" .. i, i):input("9", "more" .. i, "x") end
    w:input("3", "seed", 7):input("4", "ckpt_name", "b.safetensors")
    local doc = json.decode(w:to_json())
    for i = 1, 40 do
      assert.equal(i, doc["3"].inputs["new" .. i])
      assert.equal("x", doc["9"].inputs["more" .. i])
    end
    assert.equal(7, doc["3"].inputs.seed)
    assert.equal(8, doc["3"].inputs.steps)
    assert.equal("b.safetensors", doc["4"].inputs.ckpt_name)
    assert.equal("lighthouse", doc["9"].inputs.filename_prefix)
  end)

  it("adds an input to a node that has none", function()
    assert.equal('{"1":{"class_type":"A","inputs":{"x":1,"y":"z"}}}', from('{"1":{"class_type":"A"}}'):input("1", "x", 1):input("1", "y", "z"):to_json())
  end)
end)

describe("clone", function()
  it("is the same and changes alone", function()
    local a = from(H.text_to_image):input("3", "seed", 1)
    local text = a:to_json()
    local b = a:clone()
    assert.equal(text, b:to_json())
    b:input("3", "seed", 2):input("6", "text", "b"):input("9", "new", 1)
    assert.equal(text, a:to_json())
    a:input("3", "seed", 3)
    assert.equal(2, b:input("3", "seed"))
    assert.equal("b", b:input("6", "text"))
    assert.is_nil(a:input("9", "new"))
  end)

  it("outlives what it was cloned from", function()
    local b
    do
      local a <close> = from(H.text_to_image)
      b = a:clone():input("3", "seed", 9)
    end
    collectgarbage()
    assert.equal(9, b:input("3", "seed"))
    assert.equal(7, #b:nodes())
  end)

  it("shares the base: a thousand clones of a big workflow do not hold it a thousand times", function()
    local text = '{"1":{"class_type":"A","inputs":{"text":"' .. ("x"):rep(1000000) .. '","seed":1}}}'
    local a, clones = from(text), {}
    local function resident()
      local f = io.open "/proc/self/statm"
      local pages = f:read "a":match "%d+ (%d+)"
      f:close()
      return tonumber(pages) * 4
    end
    local before = resident()
    for i = 1, 1000 do clones[i] = a:clone():input("1", "seed", i) end
    assert.is_true(resident() - before < 50000, "more than 50 MB for 1000 clones of 1 MB")
    assert.equal(1, clones[1]:input("1", "seed"))
    assert.equal(1000, clones[1000]:input("1", "seed"))
  end)

  it("a closed workflow says so", function()
    local kept
    do
      local a <close> = from(H.text_to_image)
      kept = a
    end
    assert.error_matches(function() kept:to_json() end, "closed")
    assert.matches("closed", tostring(kept))
  end)
end)

describe("input, inputs, set", function()
  local w
  before_each(function() w = from(H.text_to_image) end)

  it("input sets and chains, and without a value gets", function()
    assert.equal(w, w:input("6", "text", "a boat"):input("5", "width", 640))
    assert.equal("a boat", w:input("6", "text"))
    assert.equal(640, w:input("5", "width"))
    assert.same({ "4", 1 }, w:input("6", "clip"))
    assert.is_nil(w:input("6", "nothing"))
  end)

  it("input takes every kind of value", function()
    for _, v in ipairs { 1, -1, 2.5, "x", "", true, false, json.null } do assert.equal(v, w:input("6", "v", v):input("6", "v")) end
    assert.same({ a = { 1, 2, 3 } }, w:input("6", "v", { a = { 1, 2, 3 } }):input("6", "v"))
    assert.equal("18446744073709551615", tostring(w:input("6", "v", json.number "18446744073709551615"):input("6", "v")))
    assert.same({ "7", 0 }, w:input("6", "v", { "7", 0 }):input("6", "v"))
  end)

  it("inputs takes one node and a map", function()
    assert.equal(w, w:inputs("3", { seed = 7, steps = 30, cfg = 5.5 }))
    assert.same({ 7, 30, 5.5 }, { w:input("3", "seed"), w:input("3", "steps"), w:input("3", "cfg") })
  end)

  it("inputs takes a map of maps", function()
    assert.equal(w, w:inputs { ["3"] = { seed = 7 }, ["6"] = { text = "x" }, ["5"] = { width = 64, height = 32 } })
    assert.same({ 7, "x", 64, 32 }, { w:input("3", "seed"), w:input("6", "text"), w:input("5", "width"), w:input("5", "height") })
  end)

  it("set takes a path, with and without `inputs`", function()
    assert.equal(w, w:set("6.inputs.text", "one"):set("7.text", "two"))
    assert.same({ "one", "two" }, { w:input("6", "text"), w:input("7", "text") })
  end)

  it("set finds the longest node id, as ids may have dots", function()
    local d = from '{"6":{"class_type":"A","inputs":{}},"6.0.1":{"class_type":"B","inputs":{"x":0}}}'
    d:set("6.0.1.x", 1):set("6.0.1.inputs.y", 2):set("6.z", 3)
    assert.same({ 1, 2, 3 }, { d:input("6.0.1", "x"), d:input("6.0.1", "y"), d:input("6", "z") })
  end)

  it("names of inputs may have dots and need escaping", function()
    w:input("6", 'a.b "c"', 1)
    assert.equal(1, json.decode(w:to_json())["6"].inputs['a.b "c"'])
  end)

  it("refuse a node that is not there, and name it", function()
    assert.error_matches(function() w:input("99", "x", 1) end, 'no node "99"')
    assert.error_matches(function() w:input("99", "x") end, 'no node "99"')
    assert.error_matches(function() w:inputs("99", { x = 1 }) end, 'no node "99"')
    assert.error_matches(function() w:inputs { ["99"] = { x = 1 } } end, 'no node "99"')
    assert.error_matches(function() w:set("99.inputs.x", 1) end, '"99.inputs.x"')
    assert.error_matches(function() w:set("nonsense", 1) end, '"nonsense"')
  end)

  it("refuse a link to a missing node, with the whole place", function()
    assert.error_matches(function() w:input("6", "clip", { "99", 0 }) end, 'node "6": input "clip" links to node "99", which does not exist')
    assert.error_matches(function() w:inputs("6", { clip = { "99", 0 } }) end, 'links to node "99", which does not exist')
    assert.error_matches(function() w:set("6.clip", { "99", 0 }) end, 'links to node "99", which does not exist')
  end)

  it("refuse a link to the node itself", function()
    assert.error_matches(function() w:input("6", "clip", { "6", 0 }) end, 'node "6": input "clip" links to node "6", which is itself')
  end)

  it("refuse a link whose node is a number, and say how to write a list", function()
    assert.error_matches(function() w:input("6", "clip", { 4, 1 }) end, 'node "6": input "clip": .*string.*__value__')
  end)

  it("refuse a slot that is no whole number, as the text of a workflow does", function()
    assert.has_error(function() w:input("6", "clip", { "4", "one" }) end)
    assert.has_error(function() w:input("6", "clip", { "4", -1 }) end)
  end)

  it("refuse values that have no JSON", function()
    assert.error_matches(function() w:input("6", "text", print) end, "a function cannot be written as JSON")
    assert.error_matches(function() w:input("6", "text", nil) end, "json.null")
  end)

  it("leave the workflow as it was when they refuse", function()
    local text, hash = w:to_json(), w.structure_hash
    pcall(w.input, w, "6", "clip", { "99", 0 })
    pcall(w.input, w, "6", "text", print)
    pcall(w.output, w, "99")
    assert.equal(text, w:to_json())
    assert.equal(hash, w.structure_hash)
  end)

  it("refuse arguments of other kinds", function()
    assert.has_error(function() w:input({}, "x", 1) end)
    assert.has_error(function() w:inputs { "x" } end)
    assert.has_error(function() w:inputs("6", { "x" }) end)
    assert.has_error(function() w:inputs "6" end)
  end)
end)

describe("name_input", function()
  local function texts(w) return { w:input("6", "text"), w:input("7", "text") } end

  it("gives inputs a name, and set with it sets them all", function()
    local w = from(H.text_to_image)
    assert.equal(w, w:name_input("prompt", "6.text", "7.inputs.text"):name_input("steps", "3.steps"))
    assert.same({ "a lighthouse", "blurry" }, texts(w))
    assert.equal(w, w:set("prompt", "a harbour"):set("steps", 4))
    assert.same({ "a harbour", "a harbour", 4 }, { w:input("6", "text"), w:input("7", "text"), w:input("3", "steps") })
    assert.equal(8, from(H.text_to_image):input("3", "steps"))
    assert.error_matches(function() from(H.text_to_image):set("prompt", "x") end, '"prompt"')
  end)

  it("once more under the same name: the new inputs are meant, and paths go on being paths", function()
    local w = from(H.text_to_image):name_input("prompt", "6.text", "7.text"):name_input("prompt", "6.text")
    w:set("7.text", "y"):set("prompt", "x")
    assert.same({ "x", "y" }, texts(w))
  end)

  it("is a clone's own", function()
    local w = from(H.text_to_image):name_input("prompt", "6.text", "7.text")
    local c = w:clone():name_input("size", "5.width", "5.height")
    c:set("prompt", "cloned"):set("size", 64)
    assert.same({ "a lighthouse", "blurry" }, texts(w))
    assert.same({ "cloned", "cloned", 64, 64 }, { c:input("6", "text"), c:input("7", "text"), c:input("5", "width"), c:input("5", "height") })
    assert.has_error(function() w:set("size", 64) end)
  end)

  it("raises with words for a value that one of them cannot take", function()
    local w = from(H.text_to_image):name_input("prompt", "6.text")
    assert.error_matches(function() w:set("prompt", { "99", 0 }) end, 'links to node "99", which does not exist')
  end)
end)

describe("output and find", function()
  local w
  before_each(function() w = from(H.text_to_image) end)

  it("output names a node, also under an alias, and chains", function()
    assert.equal(w, w:output("9"):output("latent:3"):output("picture", "8"))
  end)

  it("output takes an id that has a colon itself", function()
    assert.has_no_error(function() from('{"a:1":{"class_type":"A","inputs":{}}}'):output("a:1"):output("x:a:1") end)
  end)

  it("output refuses a node that is not there, and names it", function()
    for _, call in ipairs { { "99" }, { "final:99" }, { "final", "99" } } do
      assert.error_matches(function() w:output(table.unpack(call)) end, 'no node "99"')
    end
  end)

  it("find gives ids by class and title, in the order of the file", function()
    assert.same({ "6", "7" }, w:find { class = "CLIPTextEncode" })
    assert.same({ "6" }, w:find { title = "Positive" })
    assert.same({ "7" }, w:find { class = "CLIPTextEncode", title = "Negative" })
    assert.same({}, w:find { class = "KSampler", title = "Negative" })
    assert.same({}, w:find { class = "ksampler" })
    assert.same({ "4", "5", "6", "7", "3", "8", "9" }, w:find {})
  end)

  it("find refuses options that it does not know, and names them", function()
    assert.error_matches(function() w:find { klass = "KSampler" } end, "'klass'")
    assert.has_error(function() w:find() end)
  end)

  it("models lists the files that inputs name", function()
    assert.same({ "sd15.safetensors" }, w.models)
    assert.same({ "SDXL.CKPT" }, w:input("4", "ckpt_name", "SDXL.CKPT").models)
    assert.same({ "SDXL.CKPT", "x.pt" }, w:input("9", "lora", "x.pt").models)
  end)
end)

describe("structure_hash", function()
  local w, hash
  before_each(function()
    w = from(H.text_to_image)
    hash = w.structure_hash
  end)

  -- SHA-256 of a canonical text written by hand after the rule of parity.md.
  local function sha256(text)
    local path = H.folder "graph" .. "/canonical"
    H.write(path, text)
    return (H.run("sha256sum < " .. path)):match "^%x+"
  end

  it("is the reference's for every vector", function()
    if not H.has_shared() then return pending "no ../shared folder" end
    local vectors = json.decode(H.read(H.shared .. "/hash-vectors.json"))
    assert.is_true(#vectors >= 6)
    for _, v in ipairs(vectors) do assert.equal(v.structure_hash, W.hash(v.workflow_text), v.name) end
  end)

  it("is the same by workflow.hash and by the workflow", function()
    assert.equal(W.hash(H.text_to_image), hash)
    assert.matches("^" .. ("%x"):rep(64) .. "$", hash)
  end)

  it("does not change with literals, titles, order of nodes and inputs", function()
    w:inputs("3", { seed = 99, steps = 50, cfg = 1.5, sampler_name = "dpmpp_2m" }):input("6", "text", "x"):input("3", "seed", json.number "18446744073709551615")
    assert.equal(hash, w.structure_hash)
    assert.equal(W.hash '{"a":{"class_type":"A","inputs":{"x":1,"y":"b"},"_meta":{"title":"T"}},"2":{"class_type":"B","inputs":{}}}',
      W.hash '{"2":{"class_type":"B","inputs":{}},"a":{"inputs":{"y":"c","x":2},"class_type":"A"}}')
  end)

  it("changes with a model file", function()
    assert.not_equal(hash, w:input("4", "ckpt_name", "sdxl.safetensors").structure_hash)
    assert.equal(hash, w:input("4", "ckpt_name", "sd15.safetensors").structure_hash)
  end)

  it("keeps the names of every kind of model file, in any case", function()
    local plain = W.hash(with '{"f":"a.png"}')
    for _, suffix in ipairs { "safetensors", "sft", "ckpt", "pt", "pth", "bin", "gguf", "onnx", "pkl", "npz", "vae", "yaml", "yml" } do
      for _, s in ipairs { suffix, suffix:upper() } do assert.not_equal(plain, W.hash(with('{"f":"a.' .. s .. '"}')), s) end
    end
    for _, s in ipairs { "a.json", "a.pt2", "ckpt", "a.ckpt ", "a.safetensors.txt", "" } do assert.equal(plain, W.hash(with('{"f":"' .. s .. '"}')), s) end
  end)

  it("changes with a link, a class, the kind of a literal, a new input", function()
    local seen = { [hash] = true }
    local function new(h)
      assert.is_nil(seen[h])
      seen[h] = true
    end
    new(w:clone():input("3", "positive", { "7", 0 }).structure_hash)
    new(w:clone():input("3", "seed", "1").structure_hash)
    new(w:clone():input("3", "seed", true).structure_hash)
    new(w:clone():input("3", "seed", json.null).structure_hash)
    new(w:clone():input("3", "new", 1).structure_hash)
    new(W.hash((H.text_to_image:gsub('"SaveImage"', '"PreviewImage"'))))
    new(W.hash((H.text_to_image:gsub('"9": {', '"10": {'))))
  end)

  it("is current after each change, as if the text were read anew", function()
    for _, change in ipairs {
      { "4", "ckpt_name", "b.ckpt" }, { "3", "seed", 5 }, { "3", "negative", { "6", 0 } }, { "9", "new", { a = 1 } }, { "9", "new", { a = "x.pt" } }, { "6", "text", "t" },
    } do
      w:input(table.unpack(change))
      assert.equal(W.hash(w:to_json()), w.structure_hash)
      assert.equal(w.structure_hash, w:clone().structure_hash)
    end
  end)

  it("orders names by UTF-16 code units, with array indices first", function()
    local names = {}
    for i, name in ipairs { "0", "10", "4294967294", "01", "4294967295", "z", "é", "𐀀", "\u{ffff}" } do names[i] = ('"%s":"number"'):format(name) end
    assert.equal(sha256('{"1":{"class_type":"A","inputs":{' .. table.concat(names, ",") .. "}}}"),
      W.hash '{"1":{"class_type":"A","inputs":{"\u{ffff}":1,"𐀀":1,"é":1,"z":1,"4294967295":1,"4294967294":1,"10":1,"01":1,"0":1}}}')
  end)

  it("writes arrays as JSON.stringify does", function()
    local expected = [=[{"1":{"class_type":"A","inputs":{"l":[1,1.5,0,1e+21,100000000000000000000,0.000001,1e-7,18446744073709552000,-2.5e+300,true,null,]=]
      .. [=["a/\b\f\n\r\t\u001f\"\\é]=] .. "\u{2028}\127" .. [=[",{"2":1,"b":1,"a":[]}]}}}]=]
    local text = [=[{"1":{"class_type":"A","inputs":{"l":[1.0,1.50,-0.0,1e21,1e20,0.000001,1e-7,18446744073709551615,-2.5E300,true,null,]=]
      .. [=["a\/\b\f\n\r\t\u001f\"\\\u00e9\u2028\u007f",{"b":1,"a":[],"2":1}]}}}]=]
    assert.equal(sha256(expected), W.hash(text))
  end)

  it("reduces objects member by member", function()
    assert.equal(sha256 '{"1":{"class_type":"A","inputs":{"o":{"7":"boolean","a":{"m":"x.CKPT","n":null},"s":"","z":[1,"kept"]}}}}',
      W.hash '{"1":{"class_type":"A","inputs":{"o":{"z":[1,"kept"],"s":"gone","a":{"n":null,"m":"x.CKPT"},"7":false}}}}')
  end)

  it("takes a lone surrogate, as JSON.parse does", function()
    assert.equal(W.hash(with '{"t":"x"}'), W.hash(with [[{"t":"\ud83d"}]]))
    assert.is_string(W.hash [[{"1":{"class_type":"A","inputs":{"l":["\ud83d"]}}}]])   -- read as U+FFFD
  end)

  it("of text that is no JSON is nil and words", function()
    local h, err = W.hash "{"
    assert.is_nil(h)
    assert.matches("no valid JSON", err.message)
    assert.has_error(function() W.hash() end)
  end)

  it("of JSON that is no object is refused, or at least no crash", function()
    local path = H.folder "graph" .. "/hash.lua"      -- in a process of its own, because it did crash
    H.write(path, [=[for _, t in ipairs { "3", "null", "[]", "[1]", "[1,2]", '[[1,2],{"a":1}]' } do
      local h, err = require "moonpool".workflow.hash(t)
      print(h == nil and type(err) == "table" and "refused" or h)
    end]=])
    local text, code = H.run(H.moonpool .. " " .. path)
    assert.equal(0, code, text)
    assert.equal(("refused\n"):rep(6), text)
  end)
end)

describe("refused with words that say what it is and where it breaks:", function()
  it("the UI format", function()
    local err = refused('{"last_node_id":9,"nodes":[{"id":1,"type":"KSampler"}],"links":[[1,2,0,3,0,"MODEL"]],"version":0.4}', "UI format", '"nodes"', '"links"', "Export (API)")
    assert.equal("invalid", err.kind)
    refused('{"nodes":[]}', "UI format")
  end)

  it("a wrapper", function()
    refused('{"client_id":"x","prompt":' .. H.text_to_image .. "}", "wrapper", '"prompt"')
    refused('{"prompt":{}}', "wrapper")
  end)

  it("but not a node that is called prompt", function()
    from '{"prompt":{"class_type":"A","inputs":{}}}'
  end)

  it("an unknown link", function()
    refused('{"12":{"class_type":"A","inputs":{"x":1,"model":["4",0]}}}', 'node "12": input "model" links to node "4", which does not exist')
  end)

  it("a link to itself", function()
    refused(with '{"x":["1",0]}', 'node "1": input "x" links to node "1", which is itself')
  end)

  it("a missing class_type, or one that is no text", function()
    refused('{"1":{"class_type":"A","inputs":{}},"2":{"inputs":{}}}', 'node "2" has no class_type')
    for _, v in ipairs { "null", "7", "{}", '""' } do refused('{"2":{"class_type":' .. v .. "}}", 'node "2"', "class_type") end
  end)

  it("a node that is no object", function()
    for _, v in ipairs { "7", "null", '"x"', "[]", "true" } do refused('{"1":{"class_type":"A","inputs":{}},"b":' .. v .. "}", 'node "b" is no object') end
  end)

  it("inputs that are no object", function()
    for _, v in ipairs { "7", "null", "[]" } do refused('{"1":{"class_type":"A","inputs":' .. v .. "}}", 'node "1"', "inputs", "no object") end
  end)

  it("nothing in it", function()
    refused("{}", "empty")
    refused({}, "empty")
  end)

  it("loops, short and long, with two nodes of it", function()
    refused('{"1":{"class_type":"A","inputs":{"x":["2",0]}},"2":{"class_type":"A","inputs":{"x":["1",0]}}}', "loop", '"1"', '"2"')
    local parts = {}
    for i = 1, 5000 do parts[i] = ('"%d":{"class_type":"A","inputs":{"x":["%d",0]}}'):format(i, i % 5000 + 1) end
    refused("{" .. table.concat(parts, ",") .. "}", "loop")
    parts[5000] = '"5000":{"class_type":"A","inputs":{}}'
    assert.equal(5000, #from("{" .. table.concat(parts, ",") .. "}"):nodes())
  end)

  it("but not a node that two others need", function()
    from '{"1":{"class_type":"A","inputs":{}},"2":{"class_type":"A","inputs":{"x":["1",0],"y":["1",1]}},"3":{"class_type":"A","inputs":{"x":["1",0],"y":["2",0]}}}'
  end)

  it("a link whose node is a number", function()
    refused(with '{"x":[2,0]}', 'node "1": input "x"', "string", "__value__")
    from(with '{"x":{"__value__":[2,0]}}')
    from(with '{"x":[1,2,3],"y":[1],"z":[]}')
  end)

  it("a slot that is no whole number from 0", function()
    for _, slot in ipairs { "-1", "0.5", '"0"', "null" } do refused(with('{"x":["2",' .. slot .. "]}"), 'node "1": input "x"', "slot") end
  end)

  it("a node that is there twice", function()
    refused('{"1":{"class_type":"A","inputs":{}},"1":{"class_type":"B","inputs":{}}}', 'node "1" is there twice')
  end)

  it("text that is no JSON, with the place", function()
    local err = refused('{"1":\n {"class_type":"A",}}', "no valid JSON", "line 2, column 20")
    assert.equal("parse", err.kind)
    refused("", "no valid JSON")
    refused("KSampler", "no valid JSON", "line 1, column 1")
    refused("<html><body>404</body></html>", "no valid JSON", "line 1, column 1")
  end)

  it("JSON that is no object", function()
    for _, text in ipairs { "[]", "3", "null", '"x"', "true" } do refused(text, "JSON object of nodes") end
  end)

  it("JSON that is too deep", function()
    refused(with('{"x":' .. ("["):rep(300) .. ("]"):rep(300) .. "}"), "nested deeper than 200 levels")
  end)

  it("the first wrong thing, when there are several", function()
    refused('{"1":{"class_type":"A","inputs":{"a":["8",0],"b":["9",0]}},"2":7}', 'input "a"')
  end)
end)

describe("workflow.validate", function()
  it("is true for what could be submitted: a text, a table, a PNG", function()
    for _, source in ipairs { H.text_to_image, json.decode(H.text_to_image), png { "tEXt", "prompt\0" .. H.text_to_image } } do
      local ok, err = W.validate(source)
      assert.same({ true, nil }, { ok, err })
    end
  end)

  it("is nil and words for what is broken, or no workflow", function()
    for source, words in pairs {
      ['{"12":{"class_type":"A","inputs":{"x":1,"model":["4",0]}}}'] = 'node "12": input "model" links to node "4", which does not exist',
      ['{"nodes":[],"links":[]}'] = "UI format", ["{"] = "no valid JSON", ['{"prompt":{}}'] = "wrapper",
    } do
      local ok, err = W.validate(source)
      assert.is_nil(ok)
      assert.matches(words, err.message, 1, true)
      assert.equal(select(2, W.from(source)).kind, err.kind)
    end
    local ok, err = W.validate { ["1"] = { class_type = "A", inputs = { x = { "1", 0 } } } }
    assert.is_nil(ok)
    assert.matches("which is itself", err.message)
  end)
end)

describe("a loop made by setting a link", function()
  it("ends the job as failed when it is submitted", function()
    local path = H.folder "graph" .. "/loop.lua"      -- in a process of its own, because it did crash
    H.write(path, [=[local moonpool = require "moonpool"
      local sim <close> = assert(moonpool.sim { speed = 1000 })
      local pool <close> = moonpool.pool { log_level = "silent" }
      pool:add_client(sim.url)
      local w = moonpool.workflow.load(arg[1]):input("3", "latent_image", { "8", 0 })
      local job, err = pool:submit(w)
      print(job and job:wait().status or err.kind)]=])
    H.write(path .. ".json", H.text_to_image)
    local text, code = H.run(("%s %s %s.json"):format(H.moonpool, path, path))
    assert.equal(0, code, text)
    assert.is_true(text == "failed\n" or text == "invalid\n", text)
  end)
end)

describe("a big workflow", function()
  it("of 10 MB in one text is accepted and keeps it", function()
    local text = ("a long prompt, "):rep(700000)
    assert.is_true(#text > 10000000)
    local w = from(with('{"text":"' .. text .. '"}'))
    assert.equal(text, w:input("1", "text"))
    assert.equal(with('{"text":"' .. text .. '"}'), w:to_json())
    assert.equal(W.hash(with '{"text":""}'), w.structure_hash)
  end)

  it("of 10 MB in nodes is refused with their number and the limit", function()
    local parts = {}
    for i = 1, 100000 do parts[i] = ('"%d":{"class_type":"SomeClass","inputs":{"value":%d,"text":"%s"},"_meta":{"title":"t"}}'):format(i, i, ("x"):rep(20)) end
    local text = "{" .. table.concat(parts, ",") .. "}"
    assert.is_true(#text > 9000000)
    local err = refused(text, "100000 nodes", "limit of 10000")
    assert.equal("limit", err.kind)
  end)

  it("of 10000 nodes is accepted, in a chain too", function()
    local parts = { '"1":{"class_type":"A","inputs":{}}' }
    for i = 2, 10000 do parts[i] = ('"%d":{"class_type":"A","inputs":{"x":["%d",0]}}'):format(i, i - 1) end
    local w = from("{" .. table.concat(parts, ",") .. "}")
    assert.equal(10000, #w:nodes())
    assert.equal(10000, #w:find { class = "A" })
  end)

  it("of more than 64 MB is refused before it is read", function()
    local err = refused(with('{"text":"' .. ("x"):rep(65 << 20) .. '"}'), "over the limit of 67108864")
    assert.equal("limit", err.kind)
  end)
end)
