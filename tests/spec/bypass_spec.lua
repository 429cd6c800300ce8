-- tests/spec/bypass_spec.lua: nodes left out of a workflow, by the editor's rules.
local moonpool = require "moonpool"
local json = moonpool.json

local function lora()
  return assert(moonpool.workflow.from [[{
    "4":{"class_type":"CheckpointLoaderSimple","inputs":{"ckpt_name":"sd15.safetensors"}},
    "10":{"class_type":"LoraLoader","inputs":{"model":["4",0],"clip":["4",1],"lora_name":"style.safetensors","strength_model":1,"strength_clip":1}},
    "11":{"class_type":"LoraLoader","inputs":{"model":["10",0],"clip":["10",1],"lora_name":"detail.safetensors","strength_model":1,"strength_clip":1}},
    "6":{"class_type":"CLIPTextEncode","inputs":{"text":"x","clip":["11",1]}},
    "3":{"class_type":"KSampler","inputs":{"model":["11",0],"positive":["6",0],"negative":["6",0],"latent_image":["5",0],"seed":1,"steps":2,"cfg":7,
      "sampler_name":"euler","scheduler":"normal","denoise":1}},
    "5":{"class_type":"EmptyLatentImage","inputs":{"width":64,"height":64,"batch_size":1}},
    "8":{"class_type":"VAEDecode","inputs":{"samples":["3",0],"vae":["4",2]}},
    "9":{"class_type":"SaveImage","inputs":{"images":["8",0],"filename_prefix":"a"}}}]])
end

local function graph(wf) return json.decode(wf:to_json()) end

describe("wf:bypass", function()
  it("joins what took an output to what fed the input at the same place", function()
    local g = graph(lora():bypass "11")
    assert.is_nil(g["11"])
    assert.same({ "10", 0 }, g["3"].inputs.model)
    assert.same({ "10", 1 }, g["6"].inputs.clip)
  end)

  it("goes through several in a row, in any order", function()
    local g = graph(lora():bypass { "10", "11" })
    assert.same({ "4", 0 }, g["3"].inputs.model)
    assert.same({ "4", 1 }, g["6"].inputs.clip)
    assert.same(g, graph(lora():bypass("11"):bypass "10"))
  end)

  it("leaves out an input that nothing is left for", function()
    local g = graph(lora():bypass "4")
    assert.is_nil(g["10"].inputs.model)
    assert.equal("style.safetensors", g["10"].inputs.lora_name)
  end)

  it("goes by types where they are known", function()
    local wf = assert(moonpool.workflow.from [[{"1":{"class_type":"A","inputs":{}},"2":{"class_type":"B","inputs":{}},
      "3":{"class_type":"Mix","inputs":{"mask":["1",0],"image":["2",0]}},"4":{"class_type":"Save","inputs":{"images":["3",0]}}}]])
    local info = { Mix = { input = { required = { mask = { "MASK" }, image = { "IMAGE" } } }, output = { "IMAGE" } } }
    assert.same({ "2", 0 }, graph(wf:clone():bypass("3", info))["4"].inputs.images)
    assert.same({ "1", 0 }, graph(wf:clone():bypass "3")["4"].inputs.images)
  end)

  it("changes the structural hash, and reinstate gives it back with what was set meanwhile", function()
    local wf = lora()
    local before = wf.structure_hash
    wf:bypass "10"
    assert.not_equal(before, wf.structure_hash)
    wf:input("10", "strength_model", 0.5):input("6", "text", "y"):reinstate "10"
    assert.equal(before, wf.structure_hash)
    assert.equal(0.5, graph(wf)["10"].inputs.strength_model)
    assert.equal("y", graph(wf)["6"].inputs.text)
  end)

  it("is a clone's own", function()
    local wf = lora()
    local c = wf:clone():bypass "10"
    assert.is_truthy(graph(wf)["10"])
    assert.is_nil(graph(c)["10"])
  end)

  it("is obeyed by the pool", function()
    local sim <close> = assert(moonpool.sim { speed = 100 })
    local pool <close> = moonpool.pool { log_level = "silent" }
    assert(pool:add_client(sim.url))
    local r = pool:submit(lora():bypass { "10", "11" }):wait(20000)
    assert.equal("completed", r.status)
    assert.equal(6, sim:record().executed)
    assert.same({ 6, 6, 0 }, { r.profile.summary.totalNodes, r.profile.summary.executedNodes, r.profile.summary.pendingNodes })
    for _, n in ipairs(r.profile.nodes) do assert.is_true(n.nodeId ~= "10" and n.nodeId ~= "11") end
    assert.equal(6, #r.profile.nodes)
    assert.equal(1, r.job.progress)
  end)

  it("names what is wrong", function()
    assert.error_matches(function() lora():bypass "77" end, 'no node "77"')
    assert.error_matches(function() lora():reinstate "10" end, 'node "10" is not bypassed')
    assert.error_matches(function() lora():bypass { 10 } end, "item 1 is a number")
    assert.has_error(function() lora():bypass(5) end)
  end)
end)
