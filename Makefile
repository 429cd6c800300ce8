# Moonpool. `make demo` and `make test` set up what they need by themselves; see README.md.
#   make              build/moonpool, build/moonpool.so, build/libmoonpool.a, build/libmoonpool.so
#   make SAN=asan ... the same under build/asan with AddressSanitizer and UBSan
#   make CC=clang ...
SAN    ?= rel
B      := build$(if $(filter-out rel,$(SAN)),/$(SAN))
CC     ?= cc
LUA    ?= lua5.4
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
PKGS   := libuv libwebsockets libcurl libcjson libcrypto zlib

SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread
# Recipes that need no library may run before set-up; the flags are asked for when first used.
CPP_PKGS = $(eval CPP_PKGS := $(shell pkg-config --cflags $(PKGS) lua5.4))$(CPP_PKGS)
LIBS     = $(eval LIBS := $(shell pkg-config --libs $(PKGS)) -lm -lpthread)$(LIBS)
LUALIB   = $(eval LUALIB := $(shell pkg-config --variable=libdir lua5.4 2>/dev/null || echo /usr/lib)/liblua5.4.a)$(LUALIB)
ALL      = -std=c11 -D_GNU_SOURCE -Isrc -MMD -MP -fPIC -fvisibility=hidden -Wall -Wextra -Wshadow -Wstrict-prototypes \
           $(if $(WERROR),-Werror) $(SAN_$(SAN)) $(CPP_PKGS) $(CFLAGS) $(DEFS)

PURE := $(wildcard src/base/*.c src/graph/*.c src/comfy/*.c src/prof/*.c src/pool/*.c src/sim/*.c src/world/*.c)
CORE := $(PURE) $(wildcard src/net/*.c src/wire/*.c src/lua/*.c)
OBJ  := $(patsubst src/%.c,$B/obj/%.o,$(CORE)) $B/obj/embed.o
POBJ := $(patsubst src/%.c,$B/obj/%.o,$(PURE))
LUAFILES := $(shell find lua -name '*.lua' 2>/dev/null | sort)

all: $B/moonpool $B/moonpool.so $B/libmoonpool.a $B/libmoonpool.so

$B/obj/%.o: src/%.c Makefile
	@mkdir -p $(@D)
	@echo "  CC $<"; $(CC) $(ALL) -c -o $@ $<

# The Lua half, as C arrays.
$B/gen/embed.c: scripts/setup.d/embed.lua $(LUAFILES)
	@mkdir -p $(@D)
	$(LUA) scripts/setup.d/embed.lua $@ $(LUAFILES)
$B/obj/embed.o: $B/gen/embed.c
	@mkdir -p $(@D)
	@echo "  CC $<"; $(CC) $(ALL) -c -o $@ $<

# The interpreter exports the whole of liblua, so that C modules load into it.
$B/moonpool: $(OBJ) $B/obj/main.o
	$(CC) $(SAN_$(SAN)) $(LDFLAGS) -Wl,-E -o $@ $^ -Wl,--whole-archive $(LUALIB) -Wl,--no-whole-archive $(LIBS) -ldl
$B/moonpool.so: $(OBJ) src/moonpool.map
	$(CC) -shared $(SAN_$(SAN)) $(LDFLAGS) -Wl,-z,nodelete -Wl,--version-script=src/moonpool.map -o $@ $(OBJ) $(LIBS)
$B/libmoonpool.a: $(OBJ)
	rm -f $@ && ar rcs $@ $^
# Debian's liblua5.4.a is not position-independent, so this one names the shared liblua as a dependency.
$B/libmoonpool.so: $(OBJ) src/libmoonpool.map
	$(CC) -shared $(SAN_$(SAN)) $(LDFLAGS) -Wl,-z,nodelete -Wl,--version-script=src/libmoonpool.map -o $@ $(OBJ) -llua5.4 $(LIBS)

# Test programs of the pure rooms: no sockets, no Lua.
$B/replay: tests/replay/replay.c $(POBJ)
	$(CC) $(ALL) -o $@ $^ $(LIBS)
$B/world: tests/world/campaign.c $(POBJ)
	$(CC) $(ALL) -o $@ $^ $(LIBS)
$B/unit: tests/unit/unit.c $(POBJ)
	$(CC) $(ALL) -o $@ $^ $(LIBS)

# Planted faults: a pool built with -DMP_MUTANT=n breaks one rule; the campaign must notice each.
MUTANTS := 1 2 3 4 5 6 7 8 9
mutants:
	@mkdir -p build/mutants
	@for m in $(MUTANTS); do $(CC) $(ALL) -w -DMP_MUTANT=$$m -o build/mutants/world-$$m tests/world/campaign.c $(PURE) $(LIBS) || exit 1; \
	  if build/mutants/world-$$m --seeds 300 >build/mutants/$$m.log 2>&1; then echo "mutant $$m: NOT caught"; exit 1; else echo "mutant $$m: caught: $$(grep -m1 '^seed' build/mutants/$$m.log)"; fi; done

RECORDINGS ?= ../shared/recordings
replay: $B/replay
	@for d in $(RECORDINGS) $(RECORDINGS)/*/; do ls $$d/*.jsonl >/dev/null 2>&1 && $B/replay $$d/*.jsonl || true; done

clean:
	rm -rf build

.PHONY: all replay clean
-include $(shell find $B -name '*.d' 2>/dev/null)
