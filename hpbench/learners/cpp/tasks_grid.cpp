// Grid worlds, equal to hpbench/tasks/grid_dynamics.py and grid_layouts.py, which say what everything means. Levels draw the
// same random words in the same order there and here.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "tasks.hpp"

namespace hpbench {
namespace {

enum Cell { EMPTY, WALL, OPEN_DOOR, CLOSED_DOOR, LOCKED_DOOR, KEY, GOAL, LAVA, OBSTACLE };
enum Action { LEFT, RIGHT, FORWARD, PICKUP, TOGGLE, ACTIONS };
enum Part { AGENT, DIRECTION, CARRYING, ELAPSED, SEED, PARTS };
enum Plane { WALLS, DOORS, KEYS, GOALS, DANGERS, UNSEEN };
enum { LEVELS = SPECIFIC, LEVEL_POOL, HELD_OUT, SLIP, SEE_THROUGH, STEP_COST, OBSTACLE_COUNT, OBSTACLE_SPEED };

constexpr int VIEW = 5, POOL_BITS = 20, ROOM = 3, SLOTS = 4;

uint32_t mix(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}
uint32_t word(uint32_t seed, uint32_t index) { return mix(seed + (index + 1) * 0x9E3779B9u); }
int choose(uint32_t word, int count) { return static_cast<int>((static_cast<uint64_t>(word) * static_cast<uint64_t>(count)) >> 32); }
double uniform(uint32_t word) { return static_cast<double>(word >> 8) * 0x1p-24; }

// One of the indices below `count` for which `allowed` holds; `count` if there is none.
template <class Allowed>
int pick(int count, uint32_t word, Allowed allowed) {
    int number = 0;
    for (int i = 0; i < count; ++i) number += allowed(i);
    if (number == 0) return count;
    int rank = choose(word, number), i = 0;
    while (!allowed(i) || rank-- > 0) ++i;
    return i;
}

// -- levels ---------------------------------------------------------------------------------------------------------------

struct Start {
    int agent, direction;
};

void walls_around(double* cells, int size) {
    for (int y = 0; y < size; ++y)
        for (int x = 0; x < size; ++x)
            cells[y * size + x] = x == 0 || y == 0 || x == size - 1 || y == size - 1 ? WALL : EMPTY;
}
void goal_in_the_corner(double* cells, int size) { cells[(size - 2) * (size + 1)] = GOAL; }
int pick_empty(const double* cells, int size, uint32_t w) {
    return pick(size * size, w, [&](int i) { return cells[i] == EMPTY; });
}

Start empty(double* cells, int size, uint32_t seed) {
    walls_around(cells, size);
    goal_in_the_corner(cells, size);
    return {pick_empty(cells, size, word(seed, 0)), choose(word(seed, 1), 4)};
}

Start four_rooms(double* cells, int size, uint32_t seed) {
    walls_around(cells, size);
    const int middle = size / 2, arm = middle - 1;
    for (int i = 0; i < size; ++i) cells[i * size + middle] = cells[middle * size + i] = WALL;
    for (int k = 0; k < 4; ++k) {
        const int along = choose(word(seed, static_cast<uint32_t>(k)), arm) + (k % 2 == 0 ? 1 : middle + 1);
        cells[k < 2 ? along * size + middle : middle * size + along] = EMPTY;
    }
    cells[pick_empty(cells, size, word(seed, 4))] = GOAL;
    return {pick_empty(cells, size, word(seed, 5)), choose(word(seed, 6), 4)};
}

Start door_key(double* cells, int size, uint32_t seed) {
    walls_around(cells, size);
    goal_in_the_corner(cells, size);
    const int wall = choose(word(seed, 0), size - 4) + 2, door = choose(word(seed, 1), size - 3) + 1;
    for (int y = 0; y < size; ++y) cells[y * size + wall] = WALL;
    cells[door * size + wall] = LOCKED_DOOR;
    const auto west = [&](int i) { return cells[i] == EMPTY && i % size < wall; };
    cells[pick(size * size, word(seed, 2), west)] = KEY;
    return {pick(size * size, word(seed, 3), west), choose(word(seed, 4), 4)};
}

Start lava_gap(double* cells, int size, uint32_t seed) {
    walls_around(cells, size);
    goal_in_the_corner(cells, size);
    const int strip = choose(word(seed, 0), size - 4) + 2, gap = choose(word(seed, 1), size - 2) + 1;
    for (int y = 1; y < size - 1; ++y)
        if (y != gap) cells[y * size + strip] = LAVA;
    return {size + 1, 0};
}

Start open_field(double* cells, int size, uint32_t) {
    walls_around(cells, size);
    goal_in_the_corner(cells, size);
    return {size + 1, 0};
}

using Paths = std::vector<std::vector<int>>;

void extend(std::vector<int>& path, int side, int length, Paths& paths) {
    if (static_cast<int>(path.size()) == length) {
        paths.push_back(path);
        return;
    }
    constexpr int DX[] = {1, 0, -1, 0}, DY[] = {0, 1, 0, -1};
    const int here_x = path.back() % side, here_y = path.back() / side;
    for (int d = 0; d < 4; ++d) {
        const int x = here_x + DX[d], y = here_y + DY[d], place = y * side + x;
        if (x < 0 || y < 0 || x >= side || y >= side || std::find(path.begin(), path.end(), place) != path.end()) continue;
        path.push_back(place);
        extend(path, side, length, paths);
        path.pop_back();
    }
}

Paths all_paths(int side, int length) {
    Paths paths;
    for (int start = 0; start < side * side; ++start) {
        std::vector<int> path{start};
        extend(path, side, length, paths);
    }
    return paths;
}

template <int ROOMS>
Start multi_room(double* cells, int size, uint32_t seed) {
    constexpr int PITCH = ROOM + 1;
    const int side = (size - 1) / PITCH;
    static const Paths paths = all_paths(side, ROOMS);  // one size per number of rooms
    const std::vector<int>& path = paths[choose(word(seed, 0), static_cast<int>(paths.size()))];
    const auto room = [&](int i) {
        const int x = i % size, y = i / size;
        return x % PITCH && y % PITCH ? y / PITCH * side + x / PITCH : -1;
    };
    for (int i = 0; i < size * size; ++i) cells[i] = std::find(path.begin(), path.end(), room(i)) == path.end() ? WALL : EMPTY;
    for (int k = 0; k + 1 < ROOMS; ++k) {
        const int here = path[k], there = path[k + 1], offset = choose(word(seed, static_cast<uint32_t>(4 + k)), ROOM) + 1;
        const int x = std::max(here % side, there % side) * PITCH, y = std::max(here / side, there / side) * PITCH;
        const bool wide = here / side == there / side;
        cells[(wide ? y + offset : y) * size + (wide ? x : x + offset)] = CLOSED_DOOR;
    }
    cells[pick(size * size, word(seed, 1), [&](int i) { return room(i) == path.back(); })] = GOAL;
    return {pick(size * size, word(seed, 2), [&](int i) { return room(i) == path.front(); }), choose(word(seed, 3), 4)};
}

// -- rules ----------------------------------------------------------------------------------------------------------------

using Layout = Start (*)(double* cells, int size, uint32_t seed);

template <Layout LAYOUT, int SIZE, bool MOVING = false>
struct Grid {
    static constexpr int CELLS = SIZE * SIZE;

    static void reset(const float* u, const double* p, double* s) {
        const uint32_t pool = 2 * static_cast<uint32_t>(p[LEVEL_POOL]) + static_cast<uint32_t>(p[HELD_OUT]);
        const uint32_t seed = mix((pool << POOL_BITS) + static_cast<uint32_t>(static_cast<double>(u[0]) * p[LEVELS]));
        const Start start = LAYOUT(s, SIZE, seed);
        double* part = s + CELLS;
        part[AGENT] = start.agent, part[DIRECTION] = start.direction, part[CARRYING] = part[ELAPSED] = 0.0;
        part[SEED] = mix(static_cast<uint32_t>(u[1] * 0x1p24f));
        if (!MOVING) return;
        for (int k = 0; k < SLOTS; ++k) {
            double& place = part[PARTS + k];
            place = -1.0;
            if (k >= p[OBSTACLE_COUNT] - 0.5) continue;
            place = pick(CELLS, word(seed, static_cast<uint32_t>(k)), [&](int i) { return s[i] == EMPTY && i != start.agent; });
            s[static_cast<int>(place)] = OBSTACLE;
        }
    }

    static void move(double* s, int agent, uint32_t random, const double* p) {
        constexpr int AROUND[] = {-SIZE - 1, -SIZE, -SIZE + 1, -1, 1, SIZE - 1, SIZE, SIZE + 1};
        for (int k = 0; k < SLOTS; ++k) {
            double& slot = s[CELLS + PARTS + k];
            const int place = static_cast<int>(slot);
            const uint32_t first = static_cast<uint32_t>(2 + 2 * k);
            if (place < 0 || !(uniform(word(random, first)) < p[OBSTACLE_SPEED])) continue;
            const int way = pick(8, word(random, first + 1),
                                 [&](int i) { return s[place + AROUND[i]] == EMPTY && place + AROUND[i] != agent; });
            if (way == 8) continue;
            s[place] = EMPTY;
            slot = place + AROUND[way];
            s[place + AROUND[way]] = OBSTACLE;
        }
    }

    static bool step(double* s, int64_t choice, const float*, const double* p, double* reward) {
        constexpr int AHEAD[] = {1, SIZE, -1, -SIZE};
        double* part = s + CELLS;
        const int agent = static_cast<int>(part[AGENT]), direction = static_cast<int>(part[DIRECTION]);
        part[ELAPSED] += 1.0;
        const uint32_t random = word(static_cast<uint32_t>(part[SEED]), static_cast<uint32_t>(part[ELAPSED]));
        if (uniform(word(random, 0)) < p[SLIP]) choice = choose(word(random, 1), ACTIONS);
        double& front = s[agent + AHEAD[direction]];
        const bool crashed = choice == FORWARD && front == OBSTACLE;
        if (MOVING) move(s, agent, random, p);
        const int seen = static_cast<int>(front);
        *reward = 0.0;
        if (choice == LEFT || choice == RIGHT) part[DIRECTION] = (direction + (choice == RIGHT ? 1 : 3)) % 4;
        if (choice == PICKUP && seen == KEY && part[CARRYING] == 0.0) part[CARRYING] = 1.0, front = EMPTY;
        if (choice == TOGGLE) {
            if (seen == CLOSED_DOOR || (seen == LOCKED_DOOR && part[CARRYING] == 1.0)) front = OPEN_DOOR;
            if (seen == OPEN_DOOR) front = CLOSED_DOOR;
        }
        if (crashed) return true;
        if (choice != FORWARD || !(seen == EMPTY || seen == OPEN_DOOR || seen == GOAL || seen == LAVA)) return false;
        part[AGENT] = agent + AHEAD[direction];
        if (seen == GOAL) *reward = 1.0 - p[STEP_COST] * part[ELAPSED];
        return seen == GOAL || seen == LAVA;
    }

    static void observe(const double* s, const double* p, float* o) {
        constexpr int DX[] = {1, 0, -1, 0}, DY[] = {0, 1, 0, -1}, AREA = VIEW * VIEW;
        const double* part = s + CELLS;
        const int agent = static_cast<int>(part[AGENT]), direction = static_cast<int>(part[DIRECTION]);
        const int dx = DX[direction], dy = DY[direction];
        std::fill_n(o, (UNSEEN + 1) * AREA + 5, 0.0f);
        unsigned light = 1u << (VIEW / 2);
        for (int ahead = 0; ahead < VIEW; ++ahead) {
            int cells[VIEW];
            unsigned clear = 0;
            for (int i = 0; i < VIEW; ++i) {
                const int x = agent % SIZE + ahead * dx - (i - VIEW / 2) * dy, y = agent / SIZE + ahead * dy + (i - VIEW / 2) * dx;
                cells[i] = x < 0 || y < 0 || x >= SIZE || y >= SIZE ? WALL : static_cast<int>(s[y * SIZE + x]);
                clear |= static_cast<unsigned>(cells[i] != WALL && cells[i] != CLOSED_DOOR && cells[i] != LOCKED_DOOR) << i;
            }
            for (int i = 0; i < VIEW; ++i) light |= spread(light & clear);
            for (int i = 0; i < VIEW; ++i) {
                float* here = o + ahead * VIEW + i;
                if (p[SEE_THROUGH] > 0.0 || (light >> i & 1u))
                    show(cells[i], here, AREA);
                else
                    here[UNSEEN * AREA] = 1.0f;
            }
            light = (light & clear) | spread(light & clear);
        }
        o[(UNSEEN + 1) * AREA + direction] = 1.0f;
        o[(UNSEEN + 1) * AREA + 4] = static_cast<float>(part[CARRYING]);
    }

  private:
    static unsigned spread(unsigned bits) { return (bits << 1 | bits >> 1) & ((1u << VIEW) - 1u); }
    static void show(int cell, float* o, int area) {
        switch (cell) {
            case WALL: o[WALLS * area] = 1.0f; break;
            case OPEN_DOOR: o[DOORS * area] = static_cast<float>(1.0 / 3.0); break;
            case CLOSED_DOOR: o[DOORS * area] = static_cast<float>(2.0 / 3.0); break;
            case LOCKED_DOOR: o[DOORS * area] = 1.0f; break;
            case KEY: o[KEYS * area] = 1.0f; break;
            case GOAL: o[GOALS * area] = 1.0f; break;
            case LAVA:
            case OBSTACLE: o[DANGERS * area] = 1.0f; break;
            default: break;
        }
    }
};

template <Layout LAYOUT, int SIZE, bool MOVING = false>
constexpr Dynamics entry(const char* name) {
    using World = Grid<LAYOUT, SIZE, MOVING>;
    return {name, World::CELLS + PARTS + (MOVING ? SLOTS : 0), 2, World::reset, World::observe, World::step};
}

}  // namespace

extern const Dynamics GRID_TABLE[] = {
    entry<empty, 6>("grid-empty-6"),
    entry<door_key, 5>("grid-doorkey-5"),
    entry<door_key, 6>("grid-doorkey-6"),
    entry<door_key, 8>("grid-doorkey-8"),
    entry<four_rooms, 9>("grid-fourrooms-9"),
    entry<multi_room<2>, 9>("grid-multiroom-2"),
    entry<multi_room<4>, 13>("grid-multiroom-4"),
    entry<lava_gap, 5>("grid-lavagap-5"),
    entry<lava_gap, 7>("grid-lavagap-7"),
    entry<open_field, 5, true>("grid-obstacles-5"),
    entry<open_field, 6, true>("grid-obstacles-6"),
};
extern const int64_t GRID_COUNT = static_cast<int64_t>(std::size(GRID_TABLE));

}  // namespace hpbench
