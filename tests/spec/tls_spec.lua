-- Servers behind TLS: whom we trust. A proxy (tls.py) with a certificate of a CA of its own stands before a sim.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"

local able = K.python and os.execute "openssl version >/dev/null 2>&1"
local secure = able and it or function(what, f) pending(what .. " (python3 and openssl are needed)", f) end

local dir

-- A CA, and certificates of it for this machine and for another one.
local function certificates()
  if dir then return dir end
  dir = H.folder "tls"
  local key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
  local out, code = H.run(([[cd %s &&
    openssl req -x509 %s -subj "/CN=Spec CA" -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem &&
    for name in 127.0.0.1 192.0.2.1; do
      openssl req %s -subj "/CN=$name" -keyout $name.key -out $name.csr && echo "subjectAltName=IP:$name" > $name.ext &&
      openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext -out $name.pem || exit 1
    done]]):format(dir, key, key))
  assert(code == 0, out)
  return dir
end

-- The https address of a proxy before the sim, with the certificate of that name.
local function behind(sim, name)
  local at = certificates() .. "/" .. name
  local said = os.tmpname()
  local pipe = assert(io.popen(("exec python3 tests/spec/tls.py %s.pem %s.key %s >%s 2>/dev/null"):format(at, at, sim.url:match "%d+$", said), "w"))
  K.keep(pipe, function(p) p:close(); os.remove(said) end)
  local port = K.till("the proxy is there", function()
    local f <close> = assert(io.open(said))
    return f:read "l"
  end)
  return "https://127.0.0.1:" .. port
end

describe("TLS:", function()
  after_each(K.clean)

  -- One job, its messages over the socket and its picture over HTTP.
  local function works(url, options)
    local pool = K.pool()
    local messages = K.events(pool, "client:message")
    assert(pool:add_client(url, options))
    assert(pool:init())
    local r = K.completed(pool:submit(K.picture()))
    assert.is_true(#messages > 0)
    assert.equal("\137PNG", assert(r:fetch(r.images[1])):sub(1, 4))
  end

  -- Nobody is trusted by accident: no request reaches the server, and the reason is told.
  local function refused(sim, url, options)
    local pool = K.pool()
    local states = K.events(pool, "client:state")
    local c = assert(pool:add_client(url, options))
    pool:submit(K.picture())
    K.till("it was tried three times", function() return #states >= 3 end)
    assert.equal("offline", pool:client(url) and pool:client(url).state or c.state)
    assert.match("certificate", c.problem)
    assert.equal(0, sim:record().requests)
  end

  for _, name in ipairs { "127.0.0.1", "192.0.2.1" } do
    local right = name == "127.0.0.1"
    secure(("a certificate for %s, of an unknown CA, is refused"):format(right and "this server" or "another server"), function()
      local s = K.sim()
      refused(s, behind(s, name))
    end)

    secure(("a certificate for %s, of the CA in ca_file, is %s"):format(right and "this server" or "another server", right and "taken" or "refused"), function()
      local s = K.sim()
      local url = behind(s, name)
      if right then works(url, { ca_file = dir .. "/ca.pem" })
      else refused(s, url, { ca_file = dir .. "/ca.pem" }) end
    end)

    secure(("a certificate for %s is taken with insecure"):format(right and "this server" or "another server"), function()
      works(behind(K.sim(), name), { insecure = true })
    end)
  end

  secure("two clients of one pool, each trusts its own way", function()
    local a, b = K.sim(), K.sim()
    local pool = K.pool()
    pool:add_client(behind(a, "127.0.0.1"), { name = "a", ca_file = dir .. "/ca.pem" })
    pool:add_client(behind(b, "192.0.2.1"), { name = "b", insecure = true })
    K.till("both are online", function() return pool:stats().online == 2 end)
    for i = 1, 8 do pool:submit(K.picture(i)) end
    for r in pool:results() do assert.equal("completed", r.status) end
    assert.is_true(a:record().prompts > 0 and b:record().prompts > 0)
  end)

  secure("requests and sockets of a script take the same options", function()
    local s = K.sim()
    local url = behind(s, "127.0.0.1")
    local stats = url .. "/system_stats"
    local socket = url:gsub("^http", "ws") .. "/ws?clientId=x"
    certificates()
    local reply, why = moonpool.http.request { url = stats }
    assert.is_nil(reply)
    assert.match("certificate", tostring(why))
    reply, why = moonpool.ws.connect { url = socket }
    assert.is_nil(reply)
    assert.match("certificate", tostring(why))
    assert.equal(0, s:record().requests)
    for _, trust in ipairs { { ca_file = dir .. "/ca.pem" }, { insecure = true } } do
      assert.equal(200, assert(moonpool.http.request { url = stats, ca_file = trust.ca_file, insecure = trust.insecure }).status)
      local ws <close> = assert(moonpool.ws.connect { url = socket, ca_file = trust.ca_file, insecure = trust.insecure })
      assert.match('"status"', (assert(ws:receive(5000))))
    end
  end)

  it("a ca_file that is not there is an error when the client is added", function()
    assert.error_matches(function() K.pool():add_client("https://127.0.0.1:1", { ca_file = "nowhere/ca.pem" }) end, "option 'ca_file': nowhere/ca.pem: No such file")
  end)
end)
