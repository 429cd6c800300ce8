-- tests/regress/025-spellings-in-a-circle.lua: a server that named its models with `\` and later with `/` had each spelling lead to the
-- other one, and a job was posted there again and again, for ever.
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a server whose path separator changes", function()
  after_each(K.clean)

  scripted("gets a job by the name that it has now, in two attempts", function()
    local s = K.server { models = { "sub\\sd15.safetensors" } }
    local pool = K.pool_of { s }
    local posts = 0
    for i, model in ipairs { "sub\\sd15.safetensors", "sub/sd15.safetensors", "sub\\sd15.safetensors", "sub/sd15.safetensors" } do
      s:set { models = { model } }
      for k = 1, 2 do
        K.completed(pool:submit(K.picture(10 * i + k):input("4", "ckpt_name", "sub/sd15.safetensors")))
        local prompts = s:prompts()
        assert.equal(model, prompts[#prompts].prompt["4"].inputs.ckpt_name)
        assert.equal(posts + (k == 1 and 2 or 1), #prompts)        -- refused once when it has changed, and not again
        posts = #prompts
      end
    end
  end)
end)
