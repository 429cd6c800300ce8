-- tests/chaos/random.lua: numbers from a seed, a stream for each purpose, so that one does not shift another.
local Random = {}
Random.__index = Random

-- xorshift64*; the seed is stirred first, because neighbouring seeds shall give unlike streams.
local function new(seed, purpose)
  local state = seed
  for i = 1, #purpose do state = (state ~ purpose:byte(i)) * 0x100000001b3 end
  state = (state ~ (state >> 31)) * 0x9E3779B97F4A7C15
  return setmetatable({ state = state ~= 0 and state or 1 }, Random)
end

-- A whole number from a to b.
function Random:int(a, b)
  local x = self.state
  x = x ~ (x >> 12)
  x = x ~ (x << 25)
  x = x ~ (x >> 27)
  self.state = x
  return a + ((x * 0x2545F4914F6CDD1D) >> 11) % (b - a + 1)
end

function Random:chance(percent) return self:int(1, 100) <= percent end
function Random:pick(list) return list[self:int(1, #list)] end

return new
