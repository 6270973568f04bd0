// Philox4x32-10, the counter-based generator of hpbench/seeding.py (Salmon et al., SC 2011), one call of one stream.
#pragma once

#include <cmath>
#include <cstdint>

namespace hpbench {

class Draws {
  public:
    Draws(int64_t key, int64_t call)
        : key_{static_cast<uint32_t>(key), static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32)},
          call_{static_cast<uint32_t>(call), static_cast<uint32_t>(static_cast<uint64_t>(call) >> 32)} {}

    // Word `index` of this call. Neighbouring words come from one block, which is kept.
    uint32_t word(uint64_t index) {
        uint64_t block = index / 4;
        if (block != block_) generate(block);
        return words_[index % 4];
    }

    // In [0, 1), a multiple of 2^-24.
    float uniform(uint64_t index) { return static_cast<float>(word(index) >> 8) * 0x1p-24f; }

    // Standard normal from words index and index + 1 (Box and Muller, 1958).
    float normal(uint64_t index) {
        float first = uniform(index), second = uniform(index + 1);
        return std::sqrt(-2.0f * std::log1p(-first)) * std::cos(6.283185307179586f * second);
    }

  private:
    void generate(uint64_t block) {
        uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = call_[0], c3 = call_[1];
        uint32_t k0 = key_[0], k1 = key_[1];
        for (int round = 0; round < 10; ++round) {
            uint64_t p0 = static_cast<uint64_t>(c0) * 0xD2511F53u, p1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
            c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
            c1 = static_cast<uint32_t>(p1);
            c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
            c3 = static_cast<uint32_t>(p0);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        words_[0] = c0, words_[1] = c1, words_[2] = c2, words_[3] = c3;
        block_ = block;
    }

    uint32_t key_[2], call_[2], words_[4];
    uint64_t block_ = ~0ull;
};

}  // namespace hpbench
