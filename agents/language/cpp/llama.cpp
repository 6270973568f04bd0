// Passes of a small Llama (Touvron et al. 2023, arXiv:2302.13971) over prompts, and over columns behind them on a key-value
// cache.
//
// A few members at a time, so that what is in between stays in the cache of the processor. Every number is summed in one fixed
// order, and a member's keys lie side by side: so its numbers depend neither on who else is there nor on the threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "linear.hpp"
#include "threads.hpp"

namespace hpbench::llama {

constexpr int64_t PANEL = 16;    // outputs of a layer whose weights lie side by side; all widths are multiples of it
constexpr int64_t TOKENS = 96;   // that are computed together
constexpr int64_t QUERIES = 24;  // that see the same keys, whether or not they may attend to the last of them

struct Arguments {
    int64_t layers, hidden, heads, groups, head, inner, vocabulary;  // the network; `groups` of heads share keys and values
    int64_t members, columns, done, room, reads, threads;            // a cache has room for so many keys of a member
    double epsilon, scaling;
    const float* embeddings;         // [words, hidden]
    const float* weights;            // of all layers, see Layer; then of the last norm, and the packed head
    const float *cosines, *sines;    // [positions, head]
    const int64_t* lengths;          // tokens of the members' prompts, [members]; behind them are `done` columns; null: neither
    const int64_t *ids, *positions;  // of the new columns, [members, columns]
    const uint8_t* visible;          // which columns they attend to, [members, columns, done + columns]; null: all up to their own
    const int64_t* read;             // those of the new columns that logits are wanted of, [reads]
    float *keys, *values;            // [layers, members, groups, head, room] and [layers, members, groups, room, head]
    float* logits;                   // [members, reads, vocabulary]
};

namespace {

// The weights of one layer. Matrices are packed: [outputs / PANEL, inputs, PANEL].
struct Layer {
    const float *first_norm, *keys_and_values, *queries, *outputs, *second_norm, *gates, *down;
    Layer(const Arguments& a, const float*& at) {
        auto next = [&at](int64_t count) { return (at += count) - count; };
        first_norm = next(a.hidden);
        keys_and_values = next(a.hidden * 2 * a.groups * a.head);
        queries = next(a.hidden * a.heads * a.head);
        outputs = next(a.heads * a.head * a.hidden);
        second_norm = next(a.hidden);
        gates = next(a.hidden * 2 * a.inner);  // all gates, then all that they let through
        down = next(a.inner * a.hidden);
    }
};

// to[count, width] = from[count, depth] times a packed matrix.
void multiply_packed(const float* from, const float* packed, float* to, int64_t count, int64_t depth, int64_t width) {
    for (int64_t j = 0; j < width; j += PANEL)
        rows<PANEL / 8>(from, depth, 1, packed + j * depth, PANEL, nullptr, to + j, width, static_cast<int>(count), static_cast<int>(depth));
}

// Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).
void normalise(const float* from, const float* weights, int64_t count, int64_t width, double epsilon, float* to) {
    for (int64_t i = 0; i < count; ++i, from += width, to += width) {
        const float square = dot(from, from, static_cast<int>(width)) / static_cast<float>(width);
        const float scale = 1.0f / std::sqrt(square + static_cast<float>(epsilon));
        for (int64_t k = 0; k < width; k += 8) store(to + k, load(from + k) * scale * load(weights + k));
    }
}

void add(float* to, const float* more, int64_t count) {
    for (int64_t k = 0; k < count; k += 8) store(to + k, load(to + k) + load(more + k));
}

// Rotary position embedding (Su et al. 2021, arXiv:2104.09864) of one head, halves as pairs.
inline void turn(float* head, const float* cosines, const float* sines, int64_t width) {
    const int64_t half = width / 2;
    for (int64_t k = 0; k < half; k += 8) {
        const v8 x = load(head + k), y = load(head + half + k);
        store(head + k, x * load(cosines + k) - y * load(sines + k));
        store(head + half + k, y * load(cosines + half + k) + x * load(sines + half + k));
    }
}

// Scores of a query become shares of 1, times the sum that is returned. Where `hidden` is below zero the share is 0.
float soften(float* scores, const float* hidden, float scaling, int64_t count) {
    v8 largest = all(-std::numeric_limits<float>::infinity());
    for (int64_t k = 0; k < count; k += 8) {
        const v8 x = load(scores + k) * scaling + load(hidden + k);
        store(scores + k, x);
        largest = x > largest ? x : largest;
    }
    float top = largest[0];
    for (int lane = 1; lane < 8; ++lane) top = std::max(top, largest[lane]);
    v8 total = all(0.0f);
    for (int64_t k = 0; k < count; k += 8) {
        const v8 share = load(hidden + k) < 0.0f ? v8{} : exp8(load(scores + k) - top);
        store(scores + k, share);
        total += share;
    }
    return sum(total);
}

// What a thread computes of some members; rows are their tokens, member after member.
class Block {
   public:
    explicit Block(const Arguments& a) : a_(a), most_(std::max<int64_t>(1, TOKENS / a.columns)), wide_(a.heads * a.head) {
        for (int64_t i = 0; i < a.columns; ++i) every_.push_back(i);
        const int64_t tokens = most_ * a.columns, widest = std::max({2 * a.groups * a.head, wide_, 2 * a.inner, a.hidden});
        const int64_t sizes[] = {tokens * a.hidden, tokens * a.hidden, tokens * widest, tokens * std::max(wide_, a.inner), QUERIES * a.room,
                                 QUERIES * a.room};
        float** const parts[] = {&tokens_, &normal_, &product_, &result_, &scores_, &hidden_};
        int64_t total = 0;
        for (int64_t size : sizes) total += size;
        memory_.reset(new float[total]);
        float* at = memory_.get();
        for (int i = 0; i < 6; ++i) {
            *parts[i] = at;
            at += sizes[i];
        }
    }

    int64_t blocks() const { return (a_.members + most_ - 1) / most_; }

    void run(int64_t block) {
        first_ = block * most_;
        count_ = std::min(most_, a_.members - first_);
        shown_ = every_.data();
        each_ = a_.columns;
        for (int64_t i = 0; i < rows(); ++i)
            std::copy_n(a_.embeddings + a_.ids[first_ * a_.columns + i] * a_.hidden, a_.hidden, tokens_ + i * a_.hidden);
        const float* weights = a_.weights;
        for (int64_t l = 0; l < a_.layers; ++l) {
            const Layer layer(a_, weights);
            normalise(tokens_, layer.first_norm, rows(), a_.hidden, a_.epsilon, normal_);
            remember(layer, l);
            // Of the last layer, keys and values are kept; everything else only matters where logits are wanted.
            if (l == a_.layers - 1) {
                if (a_.reads == 0) return;
                keep_read(tokens_);
                keep_read(normal_);
                shown_ = a_.read;
                each_ = a_.reads;
            }
            attend(layer, l);
            normalise(tokens_, layer.second_norm, rows(), a_.hidden, a_.epsilon, normal_);
            feed_forward(layer);
        }
        normalise(tokens_, weights, rows(), a_.hidden, a_.epsilon, normal_);
        multiply_packed(normal_, weights + a_.hidden, a_.logits + first_ * a_.reads * a_.vocabulary, rows(), a_.hidden, a_.vocabulary);
    }

   private:
    int64_t rows() const { return count_ * each_; }
    int64_t start(int64_t member) const { return a_.lengths ? a_.lengths[member] + a_.done : 0; }
    // Where a member's keys, or values, of a group of heads begin.
    float* cached(float* cache, int64_t layer, int64_t member, int64_t group) const {
        return cache + ((layer * a_.members + member) * a_.groups + group) * a_.head * a_.room;
    }
    void turn_at(float* head, int64_t member, int64_t i) const {
        const int64_t position = a_.positions[member * a_.columns + shown_[i]];
        turn(head, a_.cosines + position * a_.head, a_.sines + position * a_.head, a_.head);
    }

    void keep_read(float* rows) const {
        for (int64_t m = 0; m < count_; ++m)
            for (int64_t i = 0; i < a_.reads; ++i)  // the columns ascend, so nothing is written over that is still needed
                std::copy_n(rows + (m * a_.columns + a_.read[i]) * a_.hidden, a_.hidden, rows + (m * a_.reads + i) * a_.hidden);
    }

    // Keys and values of all rows go into the cache.
    void remember(const Layer& layer, int64_t l) {
        const int64_t width = 2 * a_.groups * a_.head;
        multiply_packed(normal_, layer.keys_and_values, product_, rows(), a_.hidden, width);
        for (int64_t m = 0; m < count_; ++m)
            for (int64_t i = 0; i < each_; ++i)
                for (int64_t g = 0; g < a_.groups; ++g) {
                    const int64_t member = first_ + m, place = start(member) + i;
                    float *key = product_ + (m * each_ + i) * width + g * a_.head, *value = key + a_.groups * a_.head;
                    turn_at(key, member, i);
                    float* keys = cached(a_.keys, l, member, g) + place;
                    for (int64_t k = 0; k < a_.head; ++k) keys[k * a_.room] = key[k];
                    std::copy_n(value, a_.head, cached(a_.values, l, member, g) + place * a_.head);
                }
    }

    // Minus infinity where a query must not attend to a key, else zero: [queries, keys].
    void hide(int64_t member, int64_t from, int64_t queries, int64_t keys) const {
        for (int64_t i = 0; i < queries; ++i) {
            float* row = hidden_ + i * keys;
            const int64_t column = shown_[from + i], begin = start(member);
            std::fill(row, row + keys, -std::numeric_limits<float>::infinity());
            std::fill(row, row + (a_.visible ? begin - a_.done : begin + column + 1), 0.0f);
            if (!a_.visible) continue;
            const int64_t all = a_.done + a_.columns;
            const uint8_t* seen = a_.visible + (member * a_.columns + column) * all;
            for (int64_t k = 0; k < all; ++k)
                if (seen[k]) row[begin - a_.done + k] = 0.0f;
        }
    }

    void attend(const Layer& layer, int64_t l) {
        multiply_packed(normal_, layer.queries, product_, rows(), a_.hidden, wide_);
        for (int64_t m = 0; m < count_; ++m)
            for (int64_t from = 0; from < each_; from += QUERIES) {
                const int64_t member = first_ + m, queries = std::min(QUERIES, each_ - from);
                const int64_t last = a_.visible ? a_.columns : shown_[from + queries - 1] + 1;
                const int64_t keys = (start(member) + last + PANEL - 1) / PANEL * PANEL;
                hide(member, from, queries, keys);
                for (int64_t h = 0; h < a_.heads; ++h) {
                    float* query = product_ + (m * each_ + from) * wide_ + h * a_.head;
                    for (int64_t i = 0; i < queries; ++i) turn_at(query + i * wide_, member, from + i);
                    mix(query, l, member, h, queries, keys, result_ + (m * each_ + from) * wide_ + h * a_.head);
                }
            }
        multiply_packed(result_, layer.outputs, product_, rows(), wide_, a_.hidden);
        add(tokens_, product_, rows() * a_.hidden);
    }

    // What the queries of one head make of the values.
    void mix(const float* query, int64_t l, int64_t member, int64_t h, int64_t queries, int64_t keys, float* result) {
        const int64_t group = h / (a_.heads / a_.groups);
        const float* key = cached(a_.keys, l, member, group);
        const float* value = cached(a_.values, l, member, group);
        const int head = static_cast<int>(a_.head), count = static_cast<int>(queries);
        for (int64_t j = 0; j < keys; j += 16)
            hpbench::rows<2>(query, wide_, 1, key + j, a_.room, nullptr, scores_ + j, keys, count, head);
        float totals[QUERIES];
        for (int64_t i = 0; i < queries; ++i)
            totals[i] = soften(scores_ + i * keys, hidden_ + i * keys, static_cast<float>(a_.scaling), keys);
        for (int64_t j = 0; j < a_.head; j += 16)
            hpbench::rows<2>(scores_, keys, 1, value + j, a_.head, nullptr, result + j, wide_, count, static_cast<int>(keys));
        for (int64_t i = 0; i < queries; ++i)
            for (int64_t k = 0; k < a_.head; k += 8) store(result + i * wide_ + k, load(result + i * wide_ + k) / totals[i]);
    }

    // Gated by SiLU (Shazeer 2020, arXiv:2002.05202).
    void feed_forward(const Layer& layer) {
        multiply_packed(normal_, layer.gates, product_, rows(), a_.hidden, 2 * a_.inner);
        for (int64_t i = 0; i < rows(); ++i) {
            const float *gate = product_ + i * 2 * a_.inner, *through = gate + a_.inner;
            for (int64_t k = 0; k < a_.inner; k += 8) {
                const v8 x = load(gate + k);
                store(result_ + i * a_.inner + k, x / (1.0f + exp8(-x)) * load(through + k));
            }
        }
        multiply_packed(result_, layer.down, product_, rows(), a_.inner, a_.hidden);
        add(tokens_, product_, rows() * a_.hidden);
    }

    const Arguments& a_;
    const int64_t most_, wide_;  // members of a block, width of all heads
    std::vector<int64_t> every_;
    std::unique_ptr<float[]> memory_;
    float *tokens_, *normal_, *product_, *result_, *scores_, *hidden_;
    int64_t first_ = 0, count_ = 0, each_ = 0;  // members of this block, and rows of each of them
    const int64_t* shown_ = nullptr;            // which columns those are
};

}  // namespace
}  // namespace hpbench::llama

extern "C" int64_t hpbench_llama_arguments_size() { return sizeof(hpbench::llama::Arguments); }

extern "C" void hpbench_llama_run(const hpbench::llama::Arguments* a) {
    std::vector<hpbench::llama::Block> threads;
    for (int64_t i = 0; i < a->threads; ++i) threads.emplace_back(*a);
    hpbench::share(threads[0].blocks(), a->threads, [&](int64_t block, int64_t thread) { threads[thread].run(block); });
}
