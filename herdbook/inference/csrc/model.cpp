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

template <class T>
struct Model : Runner {
    Shape s;
    std::vector<Layer> layers;
    const T *embedding, *norm;
    Matrix head_weight;

    // What passes between the parts, each (N, width).
    std::vector<float> x, query, key, value, gate, up;
    std::vector<Input<T>> normed, mixed, inner;
    std::vector<int32_t> owner, place;  // (N,) each token's sequence, and its place in it

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

    // Queries of one token that share key head `group`, over all places of its sequence up to itself.
    void attend(const Batch& b, long layer, long token, long group, std::vector<float>& scores) {
        const long width = s.head_width, share = s.heads / s.kv_heads, length = place[token] + 1;
        const long step = s.kv_heads * width, padded = (length + 15) / 16 * 16;
        const int32_t* table = b.tables + owner[token] * b.width;
        const T* keys = at(b.keys) + (layer * b.places * s.kv_heads + group) * width;
        const T* values = at(b.values) + (layer * b.places * s.kv_heads + group) * width;
        const float* queries = &query[(token * s.heads + group * share) * width];
        const float scale = 1.0f / std::sqrt(float(width));
        if (long(scores.size()) < share * padded) scores.resize(share * padded * 2);
        for (long start = 0; start < length; start += b.block) {
            // Four keys at a time; those of the last block beyond `length` are read too, and overwritten below.
            const T* key = keys + table[start / b.block] * b.block * step;
            for (long p = start; p < std::min(length, start + b.block); p += 4, key += 4 * step)
                for (long h = 0; h < share; ++h) {
                    vec acc[4] = {};
                    const float* q = queries + h * width;
                    lanes(width, [&](long i, int n) {
                        vec in = load_some(q + i, n) * scale;
                        for (int j = 0; j < 4; ++j) acc[j] += in * load_some(key + j * step + i, n);
                    });
                    sum4(acc, &scores[h * padded + p]);
                }
        }
        for (long h = 0; h < share; ++h) {
            float* row = &scores[h * padded];
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
                    for (int i = length - p; i < LANES; ++i) e[i] = 0;
                total += e;
            }
            weigh(row, 1.0f / sum(total), values, table, length, b.block, step,
                  &mixed[(token * s.heads + group * share + h) * width]);
        }
    }

    // The values of a sequence, weighed.
    void weigh(const float* weights, float scale, const T* values, const int32_t* table, long length, long block,
               long step, Input<T>* out) const {
        for (long at = 0; at < s.head_width; at += 4 * LANES) {  // as many sums as are kept in registers
            const long n = std::min<long>(4 * LANES, s.head_width - at);
            vec acc[4] = {};
            for (long start = 0; start < length; start += block) {
                const T* value = values + table[start / block] * block * step + at;
                const long end = std::min(length, start + block);
                if (n == 4 * LANES)
                    for (long p = start; p < end; ++p, value += step)
                        for (int j = 0; j < 4; ++j) acc[j] += weights[p] * load(value + j * LANES);
                else
                    for (long p = start; p < end; ++p, value += step)
                        lanes(n, [&](long i, int some) { acc[i / LANES] += weights[p] * load_some(value + i, some); });
            }
            lanes(n, [&](long i, int some) { put_some(out + at + i, acc[i / LANES] * scale, some); });
        }
    }

    void feed_forward(const Layer& w, long tokens) {
        // Tokens in the same groups as `multiply` takes them, so that gate and up are still at hand.
        Share mine(s.ffn_dim, COLUMNS);
        for (long from = 0; from < tokens; from += TOKENS) {
            const long count = std::min(TOKENS, tokens - from), width = s.ffn_dim;
            const Input<T>* in = &normed[from * s.dim];
            multiply<T>(in, count, w.gate, width, s.dim, [&](long t, long n, float v) { gate[t * width + n] = v; });
            multiply<T>(in, count, w.up, width, s.dim, [&](long t, long n, float v) { up[t * width + n] = v; });
            for (long t = 0; t < count; ++t)
                lanes(mine.to - mine.from, [&](long i, int n) {
                    const long k = t * width + mine.from + i;
                    vec g = load_some(&gate[k], n);
                    put_some(&inner[from * width + k], g / (1.0f + exponential(vec{} - g)) * load_some(&up[k], n), n);
                });
        }
    }

    void layer(const Batch& b, long number, std::vector<float>& scores) {
        const Layer& w = layers[number];
        const long tokens = b.new_tokens, width = s.head_width, wide = s.heads * width, step = s.kv_heads * width;
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; ++t) normalize(&x[t * s.dim], at(w.attention_norm.values), &normed[t * s.dim]);
        multiply<T>(normed.data(), tokens, w.query, wide, s.dim, [&](long t, long n, float v) { query[t * wide + n] = v; });
        multiply<T>(normed.data(), tokens, w.key, step, s.dim, [&](long t, long n, float v) { key[t * step + n] = v; });
        multiply<T>(normed.data(), tokens, w.value, step, s.dim, [&](long t, long n, float v) { value[t * step + n] = v; });
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
        for (long task = 0; task < tokens * s.kv_heads; ++task)
            attend(b, number, task / s.kv_heads, task % s.kv_heads, scores);
        auto add = [&](long t, long n, float v) { x[t * s.dim + n] += v; };
        multiply<T>(mixed.data(), tokens, w.output, s.dim, wide, add);
#pragma omp barrier
#pragma omp for schedule(static)
        for (long t = 0; t < tokens; ++t) normalize(&x[t * s.dim], at(w.feed_forward_norm.values), &normed[t * s.dim]);
        feed_forward(w, tokens);
#pragma omp barrier
        multiply<T>(inner.data(), tokens, w.down, s.dim, s.ffn_dim, add);
#pragma omp barrier
    }

    void run(const Batch& b, float* hidden, int threads) override {
        const long tokens = b.new_tokens, step = s.kv_heads * s.head_width, wide = s.heads * s.head_width;
        x.resize(tokens * s.dim), normed.resize(tokens * s.dim), query.resize(tokens * wide);
        mixed.resize(tokens * wide), key.resize(tokens * step), value.resize(tokens * step);
        inner.resize(tokens * s.ffn_dim), gate.resize(TOKENS * s.ffn_dim), up.resize(TOKENS * s.ffn_dim);
        owner.clear(), place.clear();
        for (long r = 0; r < b.sequences; ++r)
            for (long i = 0; i < b.counts[r]; ++i) owner.push_back(r), place.push_back(b.pasts[r] + i);
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
        normed.resize(std::max<size_t>(normed.size(), count * s.dim));
        lanes(count * s.dim, [&](long i, int n) { put_some(&normed[i], load_some(hidden + i, n), n); });
#pragma omp parallel num_threads(threads)
        multiply<T>(normed.data(), count, head_weight, s.vocabulary, s.dim,
                 [&](long t, long n, float v) { logits[t * s.vocabulary + n] = v; });
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
