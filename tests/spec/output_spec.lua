-- What goes to a server beside the workflow, and what comes back: attachments, extra data, results of every kind, files.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"

local scripted = K.scripted(it, pending)
local null = moonpool.json.null

after_each(K.clean)

local cat = "\137PNG\r\n\26\n the bytes of a cat"
local dog = "\137PNG\r\n\26\n the bytes of a dog"

-- What the server has under that name in its input folder; nil: nothing.
local function input_file(client, name, subfolder)
  local reply = assert(client:get(("/view?filename=%s&type=input&subfolder=%s"):format(name:gsub(" ", "%%20"), subfolder or "")))
  return reply.status == 200 and reply.body or nil
end

-- Every entry below a folder, hidden ones too, but not the folder itself.
local function below(folder, what)
  local list = {}
  for line in H.run(("cd '%s' && find . -mindepth 1 %s | sort"):format(folder, what or "")):gmatch "[^\n]+" do list[#list + 1] = line:sub(3) end
  return list
end

local function uploads(server)
  local list = {}
  for i, r in ipairs(server:seen("POST", "/upload/.*")) do
    local u = { path = r.path }
    for _, part in ipairs(r.parts) do
      u[part.name] = part.data
      if part.name == "image" then u.name = part.filename end
    end
    list[i] = u
  end
  return list
end

-- ---- what is sent -----------------------------------------------------------------------------------------------

describe("a plain job", function()
  -- What was asked for since there were so many requests.
  local function asked(s, before)
    local list = {}
    for i, r in ipairs(s:seen()) do list[#list + 1] = i > before and r.method .. " " .. r.path or nil end
    return list
  end

  scripted("is one request: its prompt", function()
    local s = K.server()
    local pool = K.pool_of { s }
    local before = #s:seen()
    K.completed(pool:submit(K.picture()))
    K.turns()
    assert.same({ "POST /prompt" }, asked(s, before))
  end)

  scripted("is one request too when another one's prompt is there", function()
    local s = K.server { hold = "running" }
    local pool = K.pool_of({ s }, { take_backs = 0 })
    local before = #s:seen()
    local a, b = pool:submit(K.picture(1)), pool:submit(K.picture(2))
    K.till("the first runs, the second waits there", function() return a.status == "running" and #s:prompts() == 2 end)
    s:set { hold = "" }
    K.completed(a)
    K.completed(b)
    assert.same({ "POST /prompt", "POST /prompt" }, asked(s, before))
  end)
end)

describe("front", function()
  scripted("is said in the prompt of a job that wants it, and of no other", function()
    local s = K.server()
    local pool = K.pool_of { s }
    for i, front in ipairs { true, false } do K.completed(pool:submit(K.picture(i), { front = front })) end
    K.completed(pool:submit(K.picture(3)))
    local sent = s:prompts()
    assert.same({ true, nil, nil }, { sent[1].front, sent[2].front, sent[3].front })
  end)
end)

describe("a client's id", function()
  scripted("is what option client_id says, on the socket and in the prompt, also after the socket was lost", function()
    local s = K.server()
    local pool, c = K.pool_of { { s, { client_id = "studio 2/anna" } } }
    assert.equal("studio 2/anna", c.client_id)
    s:drop()
    K.till("there is another socket", function() return #s:seen("GET", "/ws") == 2 and c.online end)
    K.completed(pool:submit(K.picture()))
    for _, r in ipairs(s:seen("GET", "/ws")) do assert.equal("clientId=studio%202%2Fanna", r.query) end
    assert.equal("studio 2/anna", s:prompts()[1].client_id)
  end)

  scripted("is one of its own without the option, the same on the socket and in the prompt", function()
    local s = K.server()
    local pool, c = K.pool_of { s }
    K.completed(pool:submit(K.picture()))
    assert.matches("^moonpool%-%x+%-%x+%-%x+%-%x+%-%x+$", c.client_id)
    assert.same({ "clientId=" .. c.client_id, c.client_id }, { s:seen("GET", "/ws")[1].query, s:prompts()[1].client_id })
  end)
end)

describe("on its socket", function()
  scripted("the pool says first what it understands, again on each", function()
    local s = K.server()
    local pool, c = K.pool_of { s }
    K.till("it has spoken", function() return #s:heard() == 1 end)
    s:drop()
    K.till("it has spoken on another socket", function() return #s:heard() == 2 and c.online end)
    K.completed(pool:submit(K.picture()))
    local said = s:heard()
    assert.equal(2, #said)
    for _, h in ipairs(said) do
      assert.equal(c.client_id, h.sid)
      assert.same({ type = "feature_flags", data = { supports_preview_metadata = true } }, moonpool.json.decode(h.text))
    end
  end)
end)

-- ---- attachments ------------------------------------------------------------------------------------------------

describe("attach_image", function()
  it("puts bytes from memory into the server's input folder, and the name into the workflow", function()
    local pool, c = K.pool_of { K.sim() }
    local wf = K.from_image()
    assert.equal(wf, wf:attach_image("1", "image", cat, "cat.png"))
    local r = K.completed(pool:submit(wf))
    assert.equal("cat.png", r.workflow:input("1", "image"))
    assert.equal(cat, input_file(c, "cat.png"))
    assert.equal(1, #r.images)
  end)

  it("puts a file there, under its own name or another", function()
    local pool, c = K.pool_of { K.sim() }
    local path = H.folder "attach" .. "/from disk.png"
    H.write(path, dog)
    local r = K.completed(pool:submit(K.from_image():attach_image("1", "image", { path = path })))
    assert.equal("from disk.png", r.workflow:input("1", "image"))
    assert.equal(dog, input_file(c, "from disk.png"))
    K.completed(pool:submit(K.from_image():attach_image("1", "image", { path = path }, "renamed.png")))
    assert.equal(dog, input_file(c, "renamed.png"))
  end)

  it("puts a large file there whole", function()
    local pool, c = K.pool_of { K.sim() }
    local path = H.folder "attach" .. "/large.png"
    local bytes = cat .. ("0123456789abcdef"):rep(200000) .. dog
    H.write(path, bytes)
    K.completed(pool:submit(K.from_image():attach_image("1", "image", { path = path }, "large.png")))
    assert.is_true(bytes == input_file(c, "large.png"))
  end)

  it("uses the name that the server gives", function()
    local pool, c = K.pool_of { K.sim() }
    assert(c:upload { name = "cat.png", data = "somebody else's" })
    local r = K.completed(pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png")))
    assert.equal("cat (1).png", r.workflow:input("1", "image"))
    assert.equal(cat, input_file(c, "cat (1).png"))
    assert.equal("somebody else's", input_file(c, "cat.png"))
  end)

  it("with override takes the place of what has that name", function()
    local pool, c = K.pool_of { K.sim() }
    assert(c:upload { name = "cat.png", data = "an old one" })
    local r = K.completed(pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png", { override = true })))
    assert.equal("cat.png", r.workflow:input("1", "image"))
    assert.equal(cat, input_file(c, "cat.png"))
  end)

  it("with a subfolder names it in the workflow", function()
    local pool, c = K.pool_of { K.sim() }
    local r = K.completed(pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png", { subfolder = "pets" })))
    assert.equal("pets/cat.png", r.workflow:input("1", "image"))
    assert.equal(cat, input_file(c, "cat.png", "pets"))
  end)

  it("leaves the submitted workflow and its hash as they are", function()
    local pool = K.pool_of { K.sim { name = "x" } }
    local plain, wf = K.from_image(), K.from_image()
    wf:attach_image("1", "image", cat, "cat.png", { subfolder = "pets" })
    assert.equal(plain.structure_hash, wf.structure_hash)
    local before = wf:to_json()
    local r = K.completed(pool:submit(wf))
    assert.equal(before, wf:to_json())
    assert.equal(plain.structure_hash, r.profile.structureHash)
  end)

  it("counts as upload time in the profile, which adds up", function()
    local p = K.completed(K.pool_of { K.sim { delay_ms = 5 } }:submit(K.from_image():attach_image("1", "image", cat, "cat.png"))).profile
    assert.is_true(p.uploadTime >= 10)
    assert.near(p.queueTime, p.poolQueueTime + p.uploadTime + p.serverQueueTime + p.retryTime, 1e-6)
    assert.near(p.totalDuration, p.queueTime + p.executionTime, 1e-6)
  end)

  scripted("comes before the prompt, once for each content, however many jobs have it", function()
    local s = K.server()
    local pool = K.pool_of { s }
    local jobs = {}
    for i = 1, 6 do jobs[i] = pool:submit(K.from_image():attach_image("1", "image", i <= 4 and cat or dog, i <= 4 and "cat.png" or "dog.png")) end
    local same = K.from_image():attach_image("1", "image", cat, "cat.png")
    jobs[7], jobs[8] = pool:submit(same), pool:submit(same:clone())
    for _, j in ipairs(jobs) do K.completed(j) end
    local list = uploads(s)
    assert.equal(2, #list)
    assert.same({ "cat.png", "/upload/image" }, { list[1].name, list[1].path })
    local posts = s:seen "POST"
    assert.equal("/upload/image", posts[1].path)
    for _, p in ipairs(s:prompts()) do assert.is_truthy(p.prompt["1"].inputs.image:find "^%l+%.png$") end
  end)

  scripted("of the same name and other content goes up each time it changes", function()
    local s = K.server()
    local pool = K.pool_of { { s, { slots = 1 } } }
    local wf = K.from_image()
    K.completed(pool:submit(wf:attach_image("1", "image", cat, "pet.png", { override = true })))
    K.completed(pool:submit(wf:attach_image("1", "image", dog, "pet.png", { override = true })))
    K.completed(pool:submit(wf:attach_image("1", "image", cat, "pet.png", { override = true })))
    local sent = {}
    for i, u in ipairs(uploads(s)) do sent[i] = u.image end
    assert.same({ cat, dog, cat }, sent)
  end)

  scripted("goes to each client once, and each has its own name for it", function()
    local a, b = K.server { names = { ["cat.png"] = "cat (7).png" } }, K.server()
    local pool = K.pool_of { { a, { name = "a" } }, { b, { name = "b" } } }
    local names = {}
    for i = 1, 6 do
      local wf = K.from_image():attach_image("1", "image", cat, "cat.png")
      local r = K.completed(pool:submit(wf, { excluded_clients = { i % 2 == 0 and "a" or "b" } }))
      names[r.client] = r.workflow:input("1", "image")
    end
    assert.same({ 1, 1 }, { #uploads(a), #uploads(b) })
    assert.same({ a = "cat (7).png", b = "cat.png" }, names)
  end)

  for type, mark in K.sorted { input = "", temp = " [temp]", output = " [output]" } do
    scripted(("of type %s is put there, and named so"):format(type), function()
      local s = K.server { names = { ["dog.png"] = "dog (1).png" } }
      local pool = K.pool_of { s }
      local wf = K.from_image():attach_image("1", "image", cat, "cat.png", { type = type })
      assert.equal("cat.png" .. mark, K.completed(pool:submit(wf)).workflow:input("1", "image"))
      wf = K.from_image():attach_image("1", "image", dog, "dog.png", { type = type, subfolder = "pets" })
      assert.equal("pets/dog (1).png" .. mark, K.completed(pool:submit(wf)).workflow:input("1", "image"))
      for _, u in ipairs(uploads(s)) do assert.equal(type, u.type) end
      local sent = s:prompts()
      assert.same({ "cat.png" .. mark, "pets/dog (1).png" .. mark }, { sent[1].prompt["1"].inputs.image, sent[2].prompt["1"].inputs.image })
    end)
  end

  it("of type temp runs there, and again after a restart, which empties that folder", function()
    local s = K.sim()
    local pool, c = K.pool_of { s }
    local retried = K.events(pool, "job:retrying")
    local wf = K.from_image():attach_image("1", "image", cat, "cat.png", { type = "temp" })
    K.completed(pool:submit(wf))
    assert.is_nil(input_file(c, "cat.png"))
    s:restart(1)
    K.till("it is away", function() return not c.online end)
    K.till("it is back", function() return c.online end)
    local r = K.completed(pool:submit(wf))
    assert.same({ 0, "cat.png [temp]" }, { #retried, r.workflow:input("1", "image") })
  end)

  scripted("goes up again after the connection was lost when it is temp, and only then", function()
    local s = K.server()
    local pool, c = K.pool_of { s }
    local wf = K.from_image():attach_image("1", "image", cat, "cat.png", { type = "temp" }):attach_folder_files("pets", { { name = "dog.png", data = dog } })
    for _ = 1, 2 do K.completed(pool:submit(wf)) end
    assert.equal(2, #uploads(s))
    s:drop()
    K.till("there is another socket", function() return #s:seen("GET", "/ws") == 2 and c.online end)
    for _ = 1, 2 do K.completed(pool:submit(wf)) end
    local names = {}
    for i, u in ipairs(uploads(s)) do names[i] = u.name end
    table.sort(names)
    assert.same({ "cat.png", "cat.png", "dog.png" }, names)
  end)

  scripted("goes up again when the server says that it is gone, and the job is not to blame", function()
    local s = K.server()
    local pool, c = K.pool_of { s }
    local wf = K.from_image():attach_image("1", "image", cat, "cat.png")
    K.completed(pool:submit(wf))
    s:set { gone = { "cat.png" } }
    local r = K.completed(pool:submit(wf, { max_attempts = 1 }))
    assert.same({ 1, c.name }, { r.attempts, r.client })
    local posts = {}
    for i, p in ipairs(s:seen "POST") do posts[i] = p.path end
    assert.same({ "/upload/image", "/prompt", "/prompt", "/upload/image", "/prompt" }, posts)
    assert.equal(cat, uploads(s)[2].image)
    assert.same({}, c.blocked)
  end)

  scripted("that would replace a file another prompt there still needs waits until that has ended", function()
    local s = K.server { hold = "running" }
    local pool = K.pool_of({ s }, { take_backs = 0 })
    local function with(bytes, options) return K.from_image():attach_image("1", "image", bytes, "pet.png", options) end
    local a = pool:submit(with(cat, { override = true }))
    K.till("it runs", function() return a.status == "running" end)
    local b = pool:submit(with(dog, { override = true }))
    K.till("it is on its way there", function() return b.status == "assigned" end)
    K.turns()
    assert.same({ 1, 1 }, { #uploads(s), #s:prompts() })
    s:set { hold = "" }
    K.completed(a)
    K.completed(b)
    local posts = {}
    for i, p in ipairs(s:seen "POST") do posts[i] = p.path end
    assert.same({ "/upload/image", "/prompt", "/upload/image", "/prompt" }, posts)
    assert.same({ cat, dog }, { uploads(s)[1].image, uploads(s)[2].image })
  end)

  scripted("waits for nobody when it is the same file, has another name or replaces nothing", function()
    local s = K.server { hold = "running" }
    local pool = K.pool_of({ { s, { slots = 4 } } }, { take_backs = 0 })
    local function with(bytes, name, override) return K.from_image():attach_image("1", "image", bytes, name, { override = override }) end
    local jobs = { pool:submit(with(cat, "pet.png", true)) }
    K.till("it runs", function() return jobs[1].status == "running" end)
    for i, wf in ipairs { with(cat, "pet.png", true), with(dog, "other.png", true), with(dog, "pet.png", false) } do
      jobs[i + 1] = pool:submit(wf)
      K.till("it was sent too", function() return #s:prompts() == i + 1 end)
    end
    s:set { hold = "" }
    for _, job in ipairs(jobs) do K.completed(job) end
  end)

  it("goes along when the job is tried on another client", function()
    local pool, a, _, ca, cb = K.pair()
    a:fail { class = "ImageInvert", times = 1 }
    local r = K.completed(pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png")))
    assert.same({ "b", 2 }, { r.client, r.attempts })
    assert.same({ cat, cat }, { input_file(ca, "cat.png"), input_file(cb, "cat.png") })
  end)

  scripted("that one server does not take sends the job to another", function()
    for _, status in ipairs { 500, 413 } do
      local a, b = K.server { status = { ["/upload/image"] = { status } } }, K.server()
      local pool = K.pool_of { { a, { name = "a", priority = 5 } }, { b, { name = "b" } } }
      assert.equal("b", K.completed(pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png"))).client)
      assert.equal(0, #a:prompts())
    end
  end)

  scripted("that no server takes fails the job in words", function()
    local s = K.server { status = { ["/upload/image"] = { 500 } } }
    local pool = K.pool_of { s }
    local r = K.ended(pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png"), { max_attempts = 1 }))
    assert.equal("failed", r.status)
    assert.matches("500", r.error.message)
    assert.equal(0, #s:prompts())
  end)

  it("of a job that is canceled meanwhile leads to no prompt", function()
    local s = K.sim()
    local pool = K.pool_of { s }
    s:stall(100)
    local job = pool:submit(K.from_image():attach_image("1", "image", cat, "cat.png"))
    assert.is_true(job:cancel())
    assert.equal("canceled", K.ended(job).status)
    K.completed(pool:submit(K.picture()))
    assert.equal(1, s:record().prompts)
  end)

  it("as it was at submit is what counts", function()
    local pool, c = K.pool_of { K.sim() }
    local wf = K.from_image():attach_image("1", "image", cat, "pet.png")
    local job = pool:submit(wf)
    wf:attach_image("1", "image", dog, "other.png")
    assert.equal("pet.png", K.completed(job).workflow:input("1", "image"))
    assert.is_nil(input_file(c, "other.png"))
    assert.equal("other.png", K.completed(pool:submit(wf)).workflow:input("1", "image"))
  end)

  it("of a file that cannot be read is nil and an error", function()
    local wf = K.from_image()
    local nothing, err = wf:attach_image("1", "image", { path = H.folder "attach" .. "/not there.png" }, "x.png")
    assert.is_nil(nothing)
    assert.equal("io", err.kind)
    assert.matches("not there.png", err.message)
    assert.equal("nothing.png", wf:input("1", "image"))
  end)

  it("names what is wrong", function()
    local wf = K.from_image()
    assert.error_matches(function() wf:attach_image("77", "image", cat, "cat.png") end, "77")
    assert.has_error(function() wf:attach_image("1", "image", nil, "cat.png") end)
    assert.has_error(function() wf:attach_image("1", "image", cat) end)
    assert.has_error(function() wf:attach_image("1", "image", {}, "cat.png") end)
    assert.error_matches(function() wf:attach_image("1", "image", cat, "cat.png", { sub_folder = "x" }) end, "sub_folder")
    assert.equal("nothing.png", wf:input("1", "image"))
  end)
end)

describe("attach_mask", function()
  scripted("is sent as a mask of its original, and named in the workflow", function()
    local s = K.server { names = { ["mask.png"] = "mask (1).png" } }
    local pool = K.pool_of { s }
    local wf = K.from_image("cat.png")
    local original = { filename = "cat.png", subfolder = "pets", type = "input" }
    assert.equal(wf, wf:attach_mask("1", "image", dog, "mask.png", { original = original }))
    local r = K.completed(pool:submit(wf))
    local list = uploads(s)
    assert.equal(1, #list)
    assert.same({ "/upload/mask", "mask.png", dog }, { list[1].path, list[1].name, list[1].image })
    assert.same(original, K.json.decode(list[1].original_ref))
    assert.equal("mask (1).png", r.workflow:input("1", "image"))
    assert.equal("/upload/mask", s:seen("POST")[1].path)
  end)

  scripted("may come from a file, and goes up once", function()
    local s = K.server()
    local pool = K.pool_of { s }
    local path = H.folder "attach" .. "/m.png"
    H.write(path, dog)
    local wf = K.from_image():attach_mask("1", "image", { path = path }, "m.png", { original = { filename = "cat.png", subfolder = "", type = "input" } })
    for _ = 1, 3 do K.completed(pool:submit(wf)) end
    assert.equal(1, #uploads(s))
    assert.equal(dog, uploads(s)[1].image)
  end)

  scripted("comes after the picture it belongs to", function()
    local s = K.server()
    local pool = K.pool_of { s }
    local wf = assert(moonpool.workflow.from {
      ["1"] = { class_type = "LoadImage", inputs = { image = "x.png" } },
      ["2"] = { class_type = "LoadImageMask", inputs = { image = "y.png", channel = "alpha" } },
      ["9"] = { class_type = "SaveImage", inputs = { images = { "1", 0 }, filename_prefix = "x" } },
    })
    wf:attach_image("1", "image", cat, "cat.png"):attach_mask("2", "image", dog, "mask.png", { original = { filename = "cat.png", subfolder = "", type = "input" } })
    K.completed(pool:submit(wf))
    assert.same({ "/upload/image", "/upload/mask" }, { uploads(s)[1].path, uploads(s)[2].path })
  end)
end)

describe("attach_folder_files", function()
  scripted("puts all files into the subfolder before the prompt, and changes nothing in it", function()
    local s = K.server()
    local pool = K.pool_of { s }
    local path = H.folder "attach" .. "/three.png"
    H.write(path, cat)
    local wf = K.from_image("frames/one.png")
    assert.equal(wf, wf:attach_folder_files("frames", { { name = "one.png", data = cat }, { name = "two.png", data = dog }, { path = path } }))
    K.completed(pool:submit(wf))
    local got = {}
    for _, u in ipairs(uploads(s)) do got[#got + 1] = { u.path, u.name, u.subfolder, u.image } end
    table.sort(got, function(x, y) return x[2] < y[2] end)
    assert.same({ { "/upload/image", "one.png", "frames", cat }, { "/upload/image", "three.png", "frames", cat }, { "/upload/image", "two.png", "frames", dog } }, got)
    local posts = s:seen "POST"
    assert.equal("/prompt", posts[#posts].path)
    assert.equal("frames/one.png", s:prompts()[1].prompt["1"].inputs.image)
  end)

  it("is there when the prompt runs", function()
    local pool, c = K.pool_of { K.sim() }
    K.completed(pool:submit(K.from_image("frames/one.png"):attach_folder_files("frames", { { name = "one.png", data = cat } })))
    assert.equal(cat, input_file(c, "one.png", "frames"))
  end)

  it("names what is wrong", function()
    local wf = K.from_image()
    assert.has_error(function() wf:attach_folder_files("x", { { name = "one.png" } }) end)
    assert.has_error(function() wf:attach_folder_files("x", { { data = cat } }) end)
    assert.has_error(function() wf:attach_folder_files("x", "one.png") end)
  end)
end)

-- ---- extra data -------------------------------------------------------------------------------------------------

describe("extra_data", function()
  it("extra_pnginfo is in the picture that is saved", function()
    local pool = K.pool_of { K.sim() }
    local r = K.completed(pool:submit(K.picture(), { extra_data = { extra_pnginfo = { workflow = { id = "w-1", nodes = moonpool.json.array {} }, note = { by = "anna" } } } }))
    local path = assert(r:save(H.folder "pnginfo"))[1]
    local bytes = H.read(path)
    assert.is_truthy(bytes:find 'tEXtworkflow\0{[^}]*"id":%s*"w%-1"')
    assert.is_truthy(bytes:find 'tEXtnote\0{"by":%s*"anna"}')
    assert.equal(K.picture().structure_hash, assert(moonpool.workflow.load(path)).structure_hash)
  end)

  it("preview_method is seen by the server, and decides on previews", function()
    local pool, c = K.pool_of { K.sim { speed = 1, costs = K.costs { ms = 0, step_ms = 5 } } }
    local previews = K.events(pool, "job:preview")
    local r = K.completed(pool:submit(K.picture(1), { extra_data = { preview_method = "latent2rgb" } }))
    assert.equal("latent2rgb", assert(c:history(r.prompt_id))[r.prompt_id].prompt[4].preview_method)
    local n = #previews
    assert.is_true(n > 0)
    K.completed(pool:submit(K.picture(2), { extra_data = { preview_method = "none" } }))
    K.completed(pool:submit(K.picture(3)))
    assert.equal(n, #previews)
  end)

  scripted("has the client's api_key, there and nowhere else", function()
    local a, b = K.server(), K.server()
    local pool = K.pool_of { { a, { name = "a", api_key = "comfy-1" } }, { b, { name = "b" } } }
    K.completed(pool:submit(K.picture(1), { excluded_clients = { "b" }, extra_data = { mine = 5 } }))
    local r = K.completed(pool:submit(K.picture(2), { excluded_clients = { "a" }, extra_data = { mine = 6 } }))
    local to_a, to_b = a:prompts()[1].extra_data, b:prompts()[1].extra_data
    assert.same({ "comfy-1", 5 }, { to_a.api_key_comfy_org, to_a.mine })
    assert.same({ nil, 6 }, { to_b.api_key_comfy_org, to_b.mine })
    assert.is_string(to_a.moonpool)
    assert.is_nil(moonpool.json.encode(r.profile):find("comfy-1", 1, true))
    for _, q in ipairs(b:seen()) do assert.is_nil((q.body or ""):find("comfy-1", 1, true)) end
  end)

  scripted("of the job's own is stronger than the client's api_key", function()
    local s = K.server()
    local pool = K.pool_of { { s, { api_key = "the client's" } } }
    K.completed(pool:submit(K.picture(), { extra_data = { api_key_comfy_org = "the job's" } }))
    assert.equal("the job's", s:prompts()[1].extra_data.api_key_comfy_org)
  end)
end)

describe("include_outputs", function()
  for _, version in ipairs { "0.18.1", "2024-10" } do
    it("gives the outputs of these nodes only (" .. version .. ")", function()
      local pool = K.pool_of { K.sim { version = version } }
      local r = K.completed(pool:submit(K.two_outputs():output("first", "9"), { include_outputs = { "10" } }))
      assert.is_table(r.outputs["10"])
      assert.same({ nil, nil }, { r.outputs["9"], r.outputs.first })
      assert.same({ 1, "10" }, { #r.files, r.files[1].node })
      assert.equal(1, #assert(r:save(H.folder "included")))
    end)
  end

  it("may name them as the workflow does", function()
    local pool = K.pool_of { K.sim() }
    local r = K.completed(pool:submit(K.two_outputs():output("first", "9"):output("second", "10"), { include_outputs = { "second" } }))
    assert.is_table(r.outputs["10"])
    assert.same({ r.outputs["10"], nil, nil }, { r.outputs.second, r.outputs["9"], r.outputs.first })
    assert.same({ 1, "10" }, { #r.files, r.files[1].node })
    assert.is_table(r.raw_outputs["9"])
  end)

  it("wants a list of node ids", function()
    local pool = K.pool()
    assert.error_matches(function() pool:submit(K.picture(), { include_outputs = "9" }) end, "include_outputs")
    assert.error_matches(function() pool:submit(K.picture(), { include_outputs = { {} } }) end, "include_outputs")
  end)

  it("refuses ids that are numbers, or takes them as text", function()
    local pool = K.pool_of { K.sim() }
    local ok, job = pcall(pool.submit, pool, K.two_outputs(), { include_outputs = { 9 } })
    if not ok then return assert.matches("include_outputs", job) end
    assert.is_table(K.completed(job).outputs["9"])
  end)
end)

-- ---- results ----------------------------------------------------------------------------------------------------

-- A workflow with an output node for each id.
local function many(outputs)
  local nodes = { ["1"] = { class_type = "LoadImage", inputs = { image = "x.png" } } }
  for id in pairs(outputs) do nodes[id] = { class_type = "SaveImage", inputs = { images = { "1", 0 }, filename_prefix = id } } end
  return assert(moonpool.workflow.from(nodes))
end

local kinds = {
  ["09"] = { images = { { filename = "a_00001_.png", subfolder = "", type = "output" }, { filename = "a_00002_.png", subfolder = "", type = "output" } } },
  ["10"] = { gifs = { { filename = "v_00001.mp4", subfolder = "clips", type = "output", format = "video/h264-mp4", frame_rate = 24 } } },
  ["11"] = { audio = { { filename = "s_00001_.flac", subfolder = "audio", type = "output" } } },
  ["12"] = { text = { "a caption", "another" } },
  ["13"] = { images = { { filename = "w.webp", subfolder = "", type = "temp" } }, animated = { true } },
  ["14"] = { ["3d"] = { { filename = "m_00001_.glb", subfolder = "mesh", type = "output" } } },
  ["15"] = { sparkles = { { filename = "x.bin", subfolder = "s", type = "temp" }, null, "word", 7, true, { no_filename = 1 } } },
  ["16"] = null,
  ["17"] = { images = null, text = null },
  ["18"] = {},
  ["19"] = { images = moonpool.json.array {}, latents = { { filename = "l.latent", subfolder = null, type = null } } },
  ["20"] = { images = { { filename = null, subfolder = "", type = "output" }, { filename = 5 } }, flag = true, number = 1.5, words = "x" },
}

-- Names of files, in the order in which the result has them.
local function names_of(files)
  local list = {}
  for i, f in ipairs(files) do list[i] = f.filename end
  return list
end

local all_names = { "a_00001_.png", "a_00002_.png", "v_00001.mp4", "s_00001_.flac", "w.webp", "m_00001_.glb", "x.bin", "l.latent" }

describe("a result", function()
  local function run(how)
    local s = K.server { outputs = kinds, hold = how == "history" and "running" or "" }
    local pool, c = K.pool_of({ s }, { reconnect_base_ms = 10 })
    local job = pool:submit(many(kinds))
    if how == "history" then
      K.till("it runs", function() return job.status == "running" end)
      s:drop()
      K.till("its socket is lost", function() return not c.online end)
      s:go()
    end
    return K.completed(job), s
  end

  for _, how in ipairs { "messages", "history" } do
    scripted("has the files of every kind, by " .. how, function()
      local r = run(how)
      assert.same(all_names, names_of(r.files))
      local by_name = {}
      for _, f in ipairs(r.files) do by_name[f.filename] = f end
      assert.same({ "10", "gifs", "clips", "output" }, { by_name["v_00001.mp4"].node, by_name["v_00001.mp4"].kind, by_name["v_00001.mp4"].subfolder, by_name["v_00001.mp4"].type })
      assert.same({ "11", "audio" }, { by_name["s_00001_.flac"].node, by_name["s_00001_.flac"].kind })
      assert.same({ "14", "3d", "mesh" }, { by_name["m_00001_.glb"].node, by_name["m_00001_.glb"].kind, by_name["m_00001_.glb"].subfolder })
      assert.same({ "15", "sparkles", "temp" }, { by_name["x.bin"].node, by_name["x.bin"].kind, by_name["x.bin"].type })
      assert.same({ "a_00001_.png", "a_00002_.png", "w.webp" }, names_of(r.images))
    end)

    scripted("has what every node said, by " .. how, function()
      local r = run(how)
      assert.same({ "a caption", "another" }, r.outputs["12"].text)
      assert.equal("video/h264-mp4", r.outputs["10"].gifs[1].format)
      assert.equal(24, r.outputs["10"].gifs[1].frame_rate)
      assert.equal(true, r.outputs["13"].animated[1])
      assert.same({ 6, null, "word", 7, true }, { #r.outputs["15"].sparkles, table.unpack(r.outputs["15"].sparkles, 2, 5) })
      assert.equal(null, r.outputs["17"].images)
      assert.same({ true, 1.5, "x" }, { r.outputs["20"].flag, r.outputs["20"].number, r.outputs["20"].words })
      assert.same(r.outputs["09"], r.raw_outputs["09"])
    end)
  end

  scripted("has addresses where each file can be had, of every kind", function()
    local r = run "messages"
    for _, f in ipairs(r.files) do
      assert.equal("bytes of " .. f.filename, assert(r:fetch(f)))
      assert.equal("bytes of " .. f.filename, assert(moonpool.http.request { url = f.url }).body)
    end
    local paths = assert(r:save(H.folder "kinds", { pattern = "{filename}" }))
    assert.equal(#all_names, #paths)
    for i, name in ipairs(all_names) do assert.equal("bytes of " .. name, H.read(paths[i])) end
  end)

  scripted("has the model file that a 3D preview names", function()
    local outputs = { ["9"] = { result = moonpool.json.array { "mesh/chair.glb", { position = { x = 1 } }, null } } }
    local s = K.server { outputs = outputs }
    local pool = K.pool_of { s }
    local r = K.completed(pool:submit(many(outputs)))
    assert.equal("mesh/chair.glb", r.outputs["9"].result[1])
    assert.same({ x = 1 }, r.outputs["9"].result[2].position)
    assert.equal(1, #r.files)
    assert.same({ "chair.glb", "mesh", "result", "9" }, { r.files[1].filename, r.files[1].subfolder, r.files[1].kind, r.files[1].node })
    assert.equal("bytes of chair.glb", assert(r:fetch(r.files[1])))
  end)

  scripted("has encrypted pictures apart from the others, and both among its files", function()
    local function picture(name) return { filename = name, subfolder = "safe", type = "output" } end
    local outputs = { ["9"] = { images = { picture "plain.png" }, encrypted_images = { picture "a.enc", picture "b.enc" } } }
    local s = K.server { outputs = outputs }
    local pool = K.pool_of { s }
    local r = K.completed(pool:submit(many(outputs)))
    assert.same({ { "a.enc", "b.enc" }, { "plain.png" }, { "a.enc", "b.enc", "plain.png" } }, { names_of(r.encrypted_images), names_of(r.images), names_of(r.files) })
    local f = r.encrypted_images[2]
    assert.same({ "9", "encrypted_images", "safe", "output" }, { f.node, f.kind, f.subfolder, f.type })
    assert.equal("bytes of b.enc", assert(r:fetch(f)))
  end)

  scripted("of a job without any output is empty", function()
    local s = K.server { outputs = { ["9"] = null } }
    local pool = K.pool_of { s }
    local r = K.completed(pool:submit(K.picture()))
    assert.same({ 0, 0, 0 }, { #r.files, #r.images, #r.encrypted_images })
    assert.same({}, r:save(H.folder "nothing"))
  end)

  scripted("gives outputs by the names the workflow has for them, and theirs only to raw_outputs", function()
    local s = K.server { outputs = kinds }
    local pool = K.pool_of { s }
    local wf = many(kinds):output("final", "09"):name_output("clip", "10"):output "sound:11"
    local r = K.completed(pool:submit(wf))
    assert.same(r.outputs["09"], r.outputs.final)
    assert.same(r.outputs["10"], r.outputs.clip)
    assert.same(r.outputs["11"], r.outputs.sound)
    assert.same({ nil, nil, nil }, { r.raw_outputs.final, r.raw_outputs.clip, r.raw_outputs.sound })
    assert.equal(#all_names, #r.files)
  end)

  for _, kind in ipairs { 1, 4 } do
    scripted(("has the pictures that come through the socket (frames of kind %d)"):format(kind), function()
      local first, second = "\137PNG\r\n\26\n first", "\137PNG\r\n\26\n second"
      local frames = {}
      for i, bytes in ipairs { first, second } do
        frames[i] = { kind = kind, format = 2, data = K.to_text(bytes) }
      end
      local s = K.server { outputs = {}, frames = { ["9"] = frames } }
      local pool = K.pool_of { s }
      local wf = assert(moonpool.workflow.from((H.text_to_image:gsub('"SaveImage"', '"SaveImageWebsocket"'))))
      local r = K.completed(pool:submit(wf))
      assert.equal(2, #r.images)
      assert.same({ first, second, "9", "9" }, { r.images[1].data, r.images[2].data, r.images[1].node, r.images[2].node })
      assert.equal(first, r:fetch(r.images[1]))
      local paths = assert(r:save(H.folder "socket_pictures"))
      assert.same({ first, second }, { H.read(paths[1]), H.read(paths[2]) })
      assert.equal(0, #s:seen("GET", "/view"))
    end)
  end
end)

describe("files of a rerun that the server had cached", function()
  it("are marked so, all of them when all was cached", function()
    for _, version in ipairs { "0.18.1", "2024-10" } do
      local pool = K.pool_of { K.sim { version = version } }
      local first = K.completed(pool:submit(K.two_outputs()))
      local again = K.completed(pool:submit(K.two_outputs()))
      assert.same({ 2, 2 }, { #first.files, #again.files })
      for i = 1, 2 do
        assert.is_falsy(first.files[i].cached)
        assert.is_true(again.files[i].cached)
        assert.equal(first.files[i].filename, again.files[i].filename)
      end
    end
  end)

  it("are marked one by one when some were", function()
    local pool = K.pool_of { K.sim() }
    K.completed(pool:submit(K.two_outputs()))
    local r = K.completed(pool:submit(K.two_outputs():input("9", "filename_prefix", "another")))
    local cached = {}
    for _, f in ipairs(r.files) do cached[f.node] = f.cached or false end
    assert.same({ ["9"] = false, ["10"] = true }, cached)
  end)
end)

-- ---- files ------------------------------------------------------------------------------------------------------

-- A completed job whose only node has these files.
local function with_files(files, settings, options, pool_options)
  local o = { outputs = { ["9"] = { images = moonpool.json.array(files) } } }
  for k, v in pairs(settings or {}) do o[k] = v end
  local s = K.server(o)
  local pool = K.pool_of({ s }, pool_options)
  return K.completed(pool:submit(K.picture(), options)), s
end

describe("save", function()
  local evil = {
    "../../evil.png", "/etc/evil.png", "..", ".", "a/b/c.png", "..\\..\\w.png", "C:\\x.png", "nul\0l.png", ".hidden", "two\nlines.png", "-rf", "ünï ☃.png", "same.png", "same.png",
    "x.png.part", "con", "~root", "$HOME", "a;b", "%2e%2e%2fup.png",
  }

  local function stays_inside(files, options, job_options)
    local outer = H.folder "save_outer"
    local dir = outer .. "/middle/inner"
    local r = with_files(files, nil, job_options)
    local paths = assert(r:save(dir, options))
    local seen = {}
    for _, path in ipairs(paths) do
      assert.equal(dir .. "/", path:sub(1, #dir + 1))
      assert.is_nil(path:sub(#dir + 2):find "^%.%.?/" or path:find("/../", 1, true))
      assert.is_nil(seen[path])
      seen[path] = true
      assert.matches("^bytes of", H.read(path))
    end
    assert.equal(#paths, #below(dir, "-type f -printf '%p\\0' | tr '\\n\\0' '_\\n'"))
    assert.same({ "middle", "middle/inner" }, below(outer, "-type d"))
    assert.equal(0, #below(outer, "-type l"))
    assert.equal(0, #below(outer, "-maxdepth 1 -type f"))
    assert.equal(0, #below(outer .. "/middle", "-maxdepth 1 -type f"))
    return paths
  end

  scripted("never leaves its folder, whatever names the server sends", function()
    local files = {}
    for i, name in ipairs(evil) do files[i] = { filename = name, subfolder = "", type = "output" } end
    assert.equal(#evil, #stays_inside(files))
  end)

  scripted("never leaves its folder, whatever subfolders the server sends", function()
    local files = {}
    for i, name in ipairs(evil) do files[i] = { filename = "x" .. i .. ".png", subfolder = name, type = "output" } end
    assert.equal(#evil, #stays_inside(files))
  end)

  scripted("never leaves its folder, whatever the pattern makes of the names", function()
    for _, pattern in ipairs { "{filename}", "{name}", "{ext}", "../{filename}", "{node}/../../{filename}", "/tmp/{index}", "..", "", "{unknown}" } do
      local ok, words = pcall(stays_inside, { { filename = "../up.png", subfolder = "..", type = "output" }, { filename = "..", subfolder = "", type = "output" } }, { pattern = pattern })
      assert.is_true(ok or tostring(words):find("pattern", 1, true) ~= nil, words)
    end
  end)

  scripted("never leaves its folder, whatever the job is called", function()
    for _, id in ipairs { "../../up", "/etc/x", "..", "a/b" } do
      stays_inside({ { filename = "a.png", subfolder = "", type = "output" } }, nil, { job_id = id })
    end
  end)

  scripted("of a name too long for the disk is an error or a shorter name", function()
    local dir = H.folder "long"
    local r = with_files { { filename = ("n"):rep(300) .. ".png", subfolder = "", type = "output" } }
    local paths, err = r:save(dir)
    if paths then
      assert.equal(1, #below(dir))
      assert.matches("%.png$", paths[1])
    else
      assert.equal("io", err.kind)
      assert.same({}, below(dir))
    end
  end)

  scripted("puts the client's name where the pattern has {client}, harmlessly", function()
    local s = K.server()
    local pool = K.pool_of { { s, { name = "big/one" } } }
    local r = K.completed(pool:submit(K.picture(), { job_id = "j" }))
    local dir = H.folder "by_client"
    assert.same({ dir .. "/big_one-j-9-1-a_00001_.png" }, assert(r:save(dir, { pattern = "{client}-{job}-{node}-{index}-{name}.{ext}" })))
  end)

  scripted("of a large file gives all of it", function()
    local size = 24 << 20
    local r = with_files({ { filename = "large.bin", subfolder = "", type = "output" } }, { view = { ["large.bin"] = { size = size } } })
    local dir = H.folder "large"
    local path = assert(r:save(dir))[1]
    local f <close> = assert(io.open(path, "rb"))
    assert.equal(size, f:seek "end")
    f:seek("set", size - 16)
    assert.equal("0123456789abcdef", f:read "a")
    assert.equal(1, #below(dir))
  end)

  scripted("again takes the place of what it saved", function()
    local r = with_files { { filename = "a.png", subfolder = "", type = "output" } }
    local dir = H.folder "again"
    assert.same(assert(r:save(dir)), assert(r:save(dir)))
    assert.equal(1, #below(dir))
  end)
end)

-- The script runs in a process of its own, whose memory is its own. What it saves goes through a pipe that nobody reads
-- from for a while, as if the disk were slow.
describe("a file of 64 MB", function()
  local size = 64 << 20

  scripted("is sent and saved in a few MB of memory, however slow the disk", function()
    local dir = H.folder "streamed"
    H.write(dir .. "/script.lua", [[
      local moonpool = require "moonpool"
      local url, dir = table.unpack(arg)
      local function peak() return tonumber(io.open "/proc/self/status":read "a":match "VmHWM:%s*(%d+)") // 1024 end
      local pool <close> = moonpool.pool {}
      pool:add_client(url)
      assert(pool:init())
      local wf = assert(moonpool.workflow.from {
        ["1"] = { class_type = "LoadImage", inputs = { image = "x" } },
        ["9"] = { class_type = "SaveImage", inputs = { images = { "1", 0 }, filename_prefix = "x" } },
      })
      local before = peak()
      local r = pool:submit(assert(wf:attach_image("1", "image", { path = dir .. "/source" }, "sent.png"))):wait()
      assert(r.status == "completed", r.error)
      local sent = peak()
      local pipe = moonpool.core.beside(dir .. "/x"):gsub("-(%d+)%.part$", function(n) return ("-%d.part"):format(n + 1) end)      -- its place until it is whole
      os.execute(("mkfifo %s; (sleep 0.3; timeout 60 sh -c 'wc -c <%s' >%s/count) &"):format(pipe, pipe, dir))
      assert(r:save(dir, { pattern = "{filename}" }))
      print(("%d MB to send, %d MB to save"):format(sent - before, peak() - sent))
    ]])
    local f <close> = assert(io.open(dir .. "/source", "wb"))
    f:seek("set", size - 1)
    f:write "x"
    f:close()
    local s = K.server { outputs = { ["9"] = { images = { { filename = "large.bin", subfolder = "", type = "output" } } } }, view = { ["large.bin"] = { size = size } } }
    H.write(dir .. "/run", ([[
      exec env ASAN_OPTIONS=quarantine_size_mb=1 MOONPOOL DIR/script.lua URL DIR
    ]]):gsub("%u%u%u+", { DIR = dir, MOONPOOL = H.moonpool, URL = s.url }))
    local out = H.run("timeout 60 sh " .. dir .. "/run")                   -- until both have ended
    local to_send, to_save = out:match "^(%d+) MB to send, (%d+) MB to save\n$"
    assert.is_truthy(to_send, out)
    assert.is_true(tonumber(to_send) <= 32 and tonumber(to_save) <= 32, out)
    assert.equal(size, tonumber(H.read(dir .. "/count")))
    assert.equal(size, s:seen("POST", "/upload/image")[1].parts[2].size)
    H.folder "streamed"                                -- who reads all files below build/ would wait for the pipe
  end)
end)

describe("a download", function()
  local whole = ("0123456789"):rep(10000)
  local function truncated(times)
    return with_files({ { filename = "ok.png", subfolder = "", type = "output" }, { filename = "cut.png", subfolder = "", type = "output" } },
      { view = { ["cut.png"] = { data = whole, short = times } } })
  end

  scripted("that ends too early is tried again", function()
    local r, s = truncated(1)
    assert.is_true(whole == assert(r:fetch(r.files[2])))
    assert.equal(2, #s:seen("GET", "/view"))
  end)

  scripted("that ends too early is tried again while saving", function()
    local r = truncated(1)
    local dir = H.folder "cut"
    local paths = assert(r:save(dir))
    assert.equal(2, #paths)
    assert.is_true(whole == H.read(paths[2]))
    assert.equal(2, #below(dir))
  end)

  scripted("that ends too early three times is an error, and leaves nothing but what was there before", function()
    local r, s = truncated(6)
    local dir, bytes, paths, why, words = H.folder "cut_always"
    H.write(dir .. "/cut.png", "a good one of before")
    moonpool.task.all {
      moonpool.spawn(function() bytes, why = r:fetch(r.files[2]) end),
      moonpool.spawn(function() paths, words = r:save(dir, { pattern = "{filename}" }) end),
    }
    assert.same({ nil, nil, "connection", "connection" }, { bytes, paths, why.kind, words.kind })
    assert.equal(3 + 1 + 3, #s:seen("GET", "/view"))
    assert.same({ "cut.png", "ok.png" }, below(dir))
    assert.is_true(H.read(dir .. "/cut.png") == "a good one of before")
    assert.equal("bytes of ok.png", H.read(dir .. "/ok.png"))
    assert(r:save(dir, { pattern = "{filename}" }))
    assert.same({ "cut.png", "ok.png" }, below(dir))
    assert.is_true(whole == H.read(dir .. "/cut.png"))
  end)

  scripted("that is answered with 5xx is tried again", function()
    local r, s = with_files({ { filename = "a.png", subfolder = "", type = "output" } }, { status = { ["/view"] = { 503, 500 } } })
    local dir, bytes, paths = H.folder "busy"
    moonpool.task.all {
      moonpool.spawn(function() bytes = assert(r:fetch(r.files[1])) end),
      moonpool.spawn(function() paths = assert(r:save(dir, { pattern = "{filename}" })) end),
    }
    assert.equal(2 + 2, #s:seen("GET", "/view"))
    assert.same({ "bytes of a.png", dir .. "/a.png", "bytes of a.png" }, { bytes, paths[1], H.read(paths[1]) })
    assert.same({ "a.png" }, below(dir))
  end)

  scripted("that stops in the middle is given up after request_timeout_ms, and tried again", function()
    local r = with_files({ { filename = "cut.png", subfolder = "", type = "output" } }, { view = { ["cut.png"] = { data = whole, hang = 2 } } }, nil, { request_timeout_ms = 1000 })
    local dir, fetched, saved = H.folder "hung"
    moonpool.task.all {
      moonpool.spawn(function() fetched = assert(r:fetch(r.files[1])) end),
      moonpool.spawn(function() saved = assert(r:save(dir)) end),
    }
    assert.is_true(whole == fetched)
    assert.is_true(whole == H.read(saved[1]))
  end)

  scripted("of more than max_bytes is refused", function()
    local r = with_files({ { filename = "big.png", subfolder = "", type = "output" } }, { view = { ["big.png"] = { data = whole } } })
    local bytes, err = r:fetch(r.files[1], { max_bytes = #whole - 1 })
    assert.is_nil(bytes)
    assert.equal("limit", err.kind)
    assert.is_true(whole == assert(r:fetch(r.files[1], { max_bytes = #whole })))
    assert.error_matches(function() r:fetch(r.files[1], { max_byte = 5 }) end, "max_byte")
    for _, wrong in ipairs { false, 5, {}, "a.png" } do assert.error_matches(function() r:fetch(wrong or nil) end, "result:fetch: a file") end
  end)

  scripted("of a file that is gone is an error that names it", function()
    local r, s = with_files({ { filename = "a.png", subfolder = "", type = "output" } }, { status = { ["/view"] = { 404, 404, 404, 404, 404, 404, 404, 404 } } })
    local dir = H.folder "gone"
    local paths, err = r:save(dir)
    assert.is_nil(paths)
    assert.equal("server", err.kind)
    assert.matches("a.png", err.message)
    assert.same({}, below(dir))
    assert.equal(1, #s:seen("GET", "/view"))           -- it will not come by asking again
  end)

  it("in several tasks at once gives each its own", function()
    local pool = K.pool_of { K.sim { delay_ms = 2 } }
    local r = K.completed(pool:submit(K.picture():input("5", "batch_size", 4)))
    local tasks = {}
    for i, f in ipairs(r.files) do tasks[i] = moonpool.spawn(function() return assert(r:fetch(f)) end) end
    local seen = {}
    for _, bytes in ipairs(moonpool.task.all(tasks)) do
      assert.equal("\137PNG", bytes:sub(1, 4))
      assert.is_nil(seen[bytes])
      seen[bytes] = true
    end
  end)
end)
