// The forward pass of a dense Llama on a CPU as one call: new tokens of many sequences over the paged cache.
//
// Torch spends most of a small model's decode step outside the matrix products. Here one team of threads walks
// through the whole model and meets at a barrier between parts. Weights are read as they lie, row by row, so the
// model is not copied. Every output is one sum in one fixed order, whatever else is in the batch: a token's result is
// the same to the last bit alone or among many, read at once or in pieces.
//
// Letters: N new tokens, R sequences, H query heads, G key/value heads, D head width.
// Built by native.py.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "products.h"
#include "vectors.h"

struct Shape {
    int64_t layers, dim, heads, kv_heads, head_width, ffn_dim, vocabulary;
    float norm_eps;
};

struct Layer {
    Matrix attention_norm, query, key, value, output, feed_forward_norm, gate, up, down;
};

struct Batch {
    const int32_t *tokens, *counts, *pasts, *tables, *wanted;  // see decode.py
    int64_t new_tokens, sequences, width, wanted_count;
    const float *cosine, *sine;  // (positions, D / 2)
    void *keys, *values;         // (layers, places, G, D)
    int64_t places, block;
};

struct Runner {
    virtual ~Runner() = default;
    virtual void run(const Batch& batch, float* hidden, int threads) = 0;
    virtual void head(const float* hidden, long count, float* logits, int threads) = 0;
};

// What attends together: neighbouring new tokens of one sequence, and neighbouring key heads, each with the query heads
// that share it.
struct Tile {
    long first, count, group, groups;
};
constexpr long ROWS_AT_ONCE = 16;  // queries that go through the cache together

template <class T>
struct Model : Runner {
    Shape s;
    std::vector<Layer> layers;
    const T *embedding, *norm;
    Matrix head_weight;

    // What passes between the parts, each (N, width).
    std::vector<float> x, query, key, value, gate, up;
    Rows<Input<T>> normed, mixed, inner;
    std::vector<int32_t> owner, place;  // (N,) each token's sequence, and its place in it
    std::vector<Tile> tiles;

    static const T* at(const void* p) { return static_cast<const T*>(p); }

    void normalize(const float* from, const T* weight, Input<T>* to) const {
        vec squares = {};
        lanes(s.dim, [&](long i, int n) {
            vec v = load_some(from + i, n);
            squares += v * v;
        });
        float scale = 1.0f / std::sqrt(sum(squares) / float(s.dim) + s.norm_eps);
        lanes(s.dim, [&](long i, int n) {
            put_some(to + i, load_some(from + i, n) * scale * load_some(weight + i, n), n);
        });
    }

    void turn(float* head, const float* cosine, const float* sine) const {
        long half = s.head_width / 2;
        for (long i = 0; i < half; ++i) {
            float a = head[i], b = head[i + half];
            head[i] = a * cosine[i] - b * sine[i];
            head[i + half] = b * cosine[i] + a * sine[i];
        }
    }

    // Where row r of a tile's queries lies: key head after key head, token after token, each with the heads that share
    // the key head.
    struct Row {
        long token, head, group;
    };
    Row row_at(const Tile& tile, long r) const {
        const long share = s.heads / s.kv_heads, group = tile.group + r / (tile.count * share);
        const long within = r % (tile.count * share);
        return {tile.first + within / share, group * share + within % share, group};
    }

    // New tokens of a sequence in tiles. Few tokens take several key heads at once, whose keys lie side by side, so
    // that the cache is read in long pieces; but no fewer tiles than keep all threads at work.
    void cut_tiles(const Batch& b, long threads) {
        owner.clear(), place.clear(), tiles.clear();
        const long share = s.heads / s.kv_heads, most = std::max<long>(1, ROWS_AT_ONCE / share);
        long pieces = 1;
        while (pieces < s.kv_heads && b.sequences * pieces % threads && b.sequences * pieces < 4 * threads) ++pieces;
        const long widest = (s.kv_heads + pieces - 1) / pieces;
        for (long r = 0; r < b.sequences; ++r)
            for (long i = 0; i < b.counts[r]; ++i) {
                const long count = std::min(most, b.counts[r] - i);
                const long groups = std::max<long>(1, std::min(widest, ROWS_AT_ONCE / (count * share)));
                for (long g = 0; i % most == 0 && g < s.kv_heads; g += groups)
                    tiles.push_back({long(owner.size()), count, g, std::min(groups, s.kv_heads - g)});
                owner.push_back(r), place.push_back(b.pasts[r] + i);
            }
    }

    // Asks for a block of keys or values of neighbouring key heads.
    void ask_for_block(const T* block, long groups, long places) const {
        const long bytes = groups * s.head_width * sizeof(T), step = s.kv_heads * s.head_width;
        for (long p = 0; p < places; ++p, block += step)
            for (long i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const char*>(block) + i, 0, 2);
    }

    // The queries of a tile, each over all places of its sequence up to itself. Some rows at once go through the cache
    // block by block, so that a long past comes from memory once for all of them.
    void attend(const Batch& b, long layer, const Tile& tile, std::vector<float>& scores) {
        const long rows = tile.groups * tile.count * (s.heads / s.kv_heads);
        for (long from = 0; from < rows; from += ROWS_AT_ONCE)
            attend_rows(b, layer, tile, from, std::min(rows, from + ROWS_AT_ONCE), scores);
    }

    void attend_rows(const Batch& b, long layer, const Tile& tile, long from, long to, std::vector<float>& scores) {
        const long width = s.head_width, step = s.kv_heads * width, count = to - from;
        const int32_t* table = b.tables + owner[tile.first] * b.width;
        const T* keys = at(b.keys) + layer * b.places * step;
        const T* values = at(b.values) + layer * b.places * step;
        const float scale = 1.0f / std::sqrt(float(width));
        long lengths[ROWS_AT_ONCE], shifts[ROWS_AT_ONCE], longest = 0;
        const float* queries[ROWS_AT_ONCE];
        Input<T>* outs[ROWS_AT_ONCE];
        for (long r = 0; r < count; ++r) {
            const Row row = row_at(tile, from + r);
            lengths[r] = place[row.token] + 1, longest = std::max(longest, lengths[r]);
            shifts[r] = row.group * width;
            queries[r] = &query[(row.token * s.heads + row.head) * width];
            outs[r] = mixed[row.token] + row.head * width;
        }
        const long padded = (longest + 15) / 16 * 16;
        if (long(scores.size()) < count * padded) scores.resize(count * padded * 2);
        for (long start = 0; start < longest; start += b.block) {
            const T* block = keys + table[start / b.block] * b.block * step;
            if (const long next = start + b.block; next < longest)
                ask_for_block(keys + table[next / b.block] * b.block * step + tile.group * width, tile.groups,
                              std::min(b.block, longest - next));
            for (long r = 0; r < count; ++r) {
                // Four keys at a time; those of the last block beyond `end` are read too, and overwritten below.
                const long end = std::min(lengths[r], start + b.block);
                const T* key = block + shifts[r];
                for (long p = start; p < end; p += 4, key += 4 * step) {
                    vec acc[4] = {};
                    lanes(width, [&](long i, int n) {
                        vec in = load_some(queries[r] + i, n) * scale;
                        for (int j = 0; j < 4; ++j) acc[j] += in * load_some(key + j * step + i, n);
                    });
                    sum4(acc, &scores[r * padded + p]);
                }
            }
        }
        ask_for_block(values + table[0] * b.block * step + tile.group * width, tile.groups, std::min(b.block, longest));
        float totals[ROWS_AT_ONCE];
        for (long r = 0; r < count; ++r) totals[r] = soften(&scores[r * padded], lengths[r]);
        for (long i = 0; i < width; i += 4 * LANES)  // as many sums of a row as are kept in registers
            weigh(b, tile, table, values, i, std::min<long>(4 * LANES, width - i), scores.data(), padded, lengths, shifts,
                  totals, count, outs);
    }

    // Makes `length` scores their exponentials below the highest; their sum. Up to 15 places behind them are used.
    static float soften(float* row, long length) {
        const long padded = (length + 15) / 16 * 16;
        std::fill(row + length, row + padded, -INFINITY);
        vec high = load(row);
        for (long p = LANES; p < padded; p += LANES) {
            vec other = load(row + p);
            high = other > high ? other : high;
        }
        float most = high[0];
        for (int i = 1; i < LANES; ++i) most = std::max(most, high[i]);
        vec total = {};
        for (long p = 0; p < padded; p += LANES) {
            vec e = exponential(load(row + p) - most);
            put(row + p, e);
            if (p + LANES > length)
                for (int i = std::max<long>(0, length - p); i < LANES; ++i) e[i] = 0;
            total += e;
        }
        return sum(total);
    }

    // N vectors of the values of places `start` to `end`, weighed and added up in registers.
    template <int N>
    INLINE void add_weighed(vec (&sums)[4], const float* weights, const T* value, long start, long end, long step) {
        vec acc[N];
        for (int j = 0; j < N; ++j) acc[j] = sums[j];
        for (long p = start; p < end; ++p, value += step)
            for (int j = 0; j < N; ++j) acc[j] += weights[p] * load(value + j * LANES);
        for (int j = 0; j < N; ++j) sums[j] = acc[j];
    }

    // Numbers `first` to `first + n` of the values, weighed by each of `count` rows of scores.
    void weigh(const Batch& b, const Tile& tile, const int32_t* table, const T* values, long first, long n,
               const float* scores, long padded, const long* lengths, const long* shifts, const float* totals, long count,
               Input<T>* const* outs) const {
        const long step = s.kv_heads * s.head_width, longest = *std::max_element(lengths, lengths + count);
        vec sums[ROWS_AT_ONCE][4];
        for (long r = 0; r < count; ++r)
            for (vec& sum : sums[r]) sum = vec{};
        for (long start = 0; start < longest; start += b.block) {
            const T* block = values + table[start / b.block] * b.block * step + first;
            if (const long next = start + b.block; next < longest && first == 0)
                ask_for_block(values + table[next / b.block] * b.block * step + tile.group * s.head_width, tile.groups,
                              std::min(b.block, longest - next));
            for (long r = 0; r < count; ++r) {
                const long end = std::min(lengths[r], start + b.block);
                const float* weights = scores + r * padded;
                const T* value = block + shifts[r];
                if (n == 4 * LANES)
                    add_weighed<4>(sums[r], weights, value, start, end, step);
                else if (n == 2 * LANES)
                    add_weighed<2>(sums[r], weights, value, start, end, step);
                else
                    for (long p = start; p < end; ++p, value += step)
                        lanes(n, [&](long i, int some) { sums[r][i / LANES] += weights[p] * load_some(value + i, some); });
            }
        }
        for (long r = 0; r < count; ++r)
            lanes(n, [&](long i, int some) {
                put_some(outs[r] + first + i, sums[r][i / LANES] * (1.0f / totals[r]), some);
            });
    }

    void feed_forward(const Layer& w, long tokens) {
        // Tokens in the same groups as `multiply` takes them, so that gate and up are still at hand.
        Share mine(s.ffn_dim, COLUMNS);
        for (long from = 0; from < tokens; from += TOKENS) {
            const long count = std::min(TOKENS, tokens - from), width = s.ffn_dim;
            multiply<T>(normed, from, count, w.gate, width, s.dim, Output{gate.data(), width});
            multiply<T>(normed, from, count, w.up, width, s.dim, Output{up.data(), width});
            for (long t = 0; t < count; ++t)
                lanes(mine.to - mine.from, [&](long i, int n) {
                    const long k = t * width + mine.from + i;
                    vec g = load_some(&gate[k], n);
                    put_some(inner[from + t] + mine.from + i, g / (1.0f + exponential(vec{} - g)) * load_some(&up[k], n), n);
                });
        }
    }

    void layer(const Batch& b, long number, std::vector<float>& scores) {
        const Layer& w = layers[number];
        const long tokens = b.new_tokens, width = s.head_width, wide = s.heads * width, step = s.kv_heads * width;
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; ++t) normalize(&x[t * s.dim], at(w.attention_norm.values), normed[t]);
        multiply<T>(normed, 0, tokens, w.query, wide, s.dim, Output{query.data(), wide});
        multiply<T>(normed, 0, tokens, w.key, step, s.dim, Output{key.data(), step});
        multiply<T>(normed, 0, tokens, w.value, step, s.dim, Output{value.data(), step});
#pragma omp barrier
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; ++t) {
            const long angle = long(place[t]) * (width / 2);
            for (long h = 0; h < s.heads; ++h) turn(&query[t * wide + h * width], b.cosine + angle, b.sine + angle);
            for (long g = 0; g < s.kv_heads; ++g) turn(&key[t * step + g * width], b.cosine + angle, b.sine + angle);
            const int32_t* table = b.tables + owner[t] * b.width;
            const long slot = number * b.places + table[place[t] / b.block] * b.block + place[t] % b.block;
            lanes(step, [&](long i, int n) {
                put_some(static_cast<T*>(b.keys) + slot * step + i, load_some(&key[t * step + i], n), n);
                put_some(static_cast<T*>(b.values) + slot * step + i, load_some(&value[t * step + i], n), n);
            });
        }
#pragma omp for schedule(dynamic, 1)
        for (size_t tile = 0; tile < tiles.size(); ++tile) attend(b, number, tiles[tile], scores);
        const Output add{x.data(), s.dim, true};
        multiply<T>(mixed, 0, tokens, w.output, s.dim, wide, add);
#pragma omp barrier
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; ++t) normalize(&x[t * s.dim], at(w.feed_forward_norm.values), normed[t]);
        feed_forward(w, tokens);
#pragma omp barrier
        multiply<T>(inner, 0, tokens, w.down, s.dim, s.ffn_dim, add);
#pragma omp barrier
    }

    void run(const Batch& b, float* hidden, int threads) override {
        const long tokens = b.new_tokens, step = s.kv_heads * s.head_width, wide = s.heads * s.head_width;
        x.resize(tokens * s.dim), normed.fit(tokens, s.dim), query.resize(tokens * wide);
        mixed.fit(tokens, wide), key.resize(tokens * step), value.resize(tokens * step);
        inner.fit(tokens, s.ffn_dim), gate.resize(TOKENS * s.ffn_dim), up.resize(TOKENS * s.ffn_dim);
        cut_tiles(b, threads);
#pragma omp parallel num_threads(threads)
        {
            std::vector<float> scores;
#pragma omp for schedule(static)
            for (long t = 0; t < tokens; ++t)
                lanes(s.dim, [&](long i, int n) {
                    put_some(&x[t * s.dim + i], load_some(embedding + b.tokens[t] * s.dim + i, n), n);
                });
            for (long number = 0; number < s.layers; ++number) layer(b, number, scores);
        }
        std::vector<Input<T>> out(s.dim);
        for (long m = 0; m < b.wanted_count; ++m) {
            normalize(&x[b.wanted[m] * s.dim], norm, out.data());
            for (long i = 0; i < s.dim; ++i) hidden[m * s.dim + i] = single(out[i]);
        }
    }

    void head(const float* hidden, long count, float* logits, int threads) override {
        normed.fit(count, s.dim);
        for (long t = 0; t < count; ++t)
            lanes(s.dim, [&](long i, int n) { put_some(normed[t] + i, load_some(hidden + t * s.dim + i, n), n); });
#pragma omp parallel num_threads(threads)
        multiply<T>(normed, 0, count, head_weight, s.vocabulary, s.dim, Output{logits, s.vocabulary});
    }
};

template <class T>
static Runner* make(const Shape& shape, const Layer* layers, const void* embedding, const void* norm, const Matrix& head) {
    auto* model = new Model<T>;
    model->s = shape;
    model->layers.assign(layers, layers + shape.layers);
    model->embedding = Model<T>::at(embedding), model->norm = Model<T>::at(norm), model->head_weight = head;
    return model;
}

extern "C" {
void* herdbook_create(const Shape* shape, const Layer* layers, const void* embedding, const void* norm,
                      const Matrix* head, int half) {
    return half ? make<bf16>(*shape, layers, embedding, norm, *head) : make<float>(*shape, layers, embedding, norm, *head);
}
void herdbook_run(void* model, const Batch* batch, float* hidden, int threads) {
    static_cast<Runner*>(model)->run(*batch, hidden, threads);
}
void herdbook_head(void* model, const float* hidden, int64_t count, float* logits, int threads) {
    static_cast<Runner*>(model)->head(hidden, count, logits, threads);
}
void herdbook_destroy(void* model) { delete static_cast<Runner*>(model); }
}
