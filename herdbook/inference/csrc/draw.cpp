// Drawing tokens from logits, row by row: what sampler.py does with tensors, without sorting the vocabulary.
//
// A row's weights are exp((logit - largest) / temperature). Cuts need the likeliest tokens in order: those above a
// thousandth of the likeliest are sorted, and only when these cannot decide, all. Letters: B rows, V vocabulary.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "vectors.h"

struct Settings {
    const double *temperature, *top_k, *top_p, *min_p;  // (B,) each; temperature 0: the likeliest; top_k 0: all
    const double* chance;                               // (B,) in [0, 1)
};

static float largest(const float* row, long count) {
    vec high = vec{} - INFINITY;
    lanes(count, [&](long i, int n) {
        vec v = n == LANES ? load(row + i) : vec{} - INFINITY;
        for (int j = 0; n < LANES && j < n; ++j) v[j] = row[i + j];
        high = v > high ? v : high;
    });
    float most = high[0];
    for (int i = 1; i < LANES; ++i) most = most < high[i] ? high[i] : most;
    return most;
}

// The first place where the running sum of `weight(i)` passes `target`; the last one with any weight if rounding
// lets none pass.
template <class Weight>
static long passes(long count, double target, Weight weight) {
    double sum = 0;
    long last = 0;
    for (long i = 0; i < count; ++i) {
        double w = weight(i);
        if (w > 0) last = i;
        sum += w;
        if (sum > target) return i;
    }
    return last;
}

struct Drawer {
    std::vector<float> weights;
    std::vector<double> sums;  // of each group of GROUP weights
    std::vector<int32_t> order;
    static constexpr long GROUP = 256;

    double weigh(const float* row, long count, float most, float temperature) {
        weights.resize(count), sums.assign((count + GROUP - 1) / GROUP, 0.0);
        const float inverse = 1.0f / temperature;
        for (long g = 0; g < long(sums.size()); ++g) {
            const long from = g * GROUP, size = std::min(GROUP, count - from);
            vec total = {};
            lanes(size, [&](long i, int n) {
                vec x = load_some(row + from + i, n);
                vec w = exponential((x - most) * inverse);
                w = (x - most) * inverse < -87.0f ? vec{} : w;  // too unlikely for a float: never drawn
                for (int j = n; j < LANES; ++j) w[j] = 0;
                total += w;
                put_some(&weights[from + i], w, n);
            });
            sums[g] = sum(total);
        }
        return std::accumulate(sums.begin(), sums.end(), 0.0);
    }

    long from_all(double target) const {
        long g = passes(sums.size(), target, [&](long i) { return sums[i]; });
        double before = std::accumulate(sums.begin(), sums.begin() + g, 0.0);
        const float* w = &weights[g * GROUP];
        return g * GROUP + passes(std::min<long>(GROUP, weights.size() - g * GROUP), target - before, [&](long i) { return w[i]; });
    }

    // Tokens of at least this weight, the likeliest first.
    void sort_above(float least) {
        order.clear();
        for (long i = 0; i < long(weights.size()); ++i)
            if (weights[i] >= least) order.push_back(i);
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
            return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
        });
    }

    // How many of the sorted tokens the cuts leave, and their weight; -1 when tokens that were not sorted count too.
    long cut(double top_k, double top_p, double min_p, double total, double& kept) const {
        const long known = order.size();
        const bool all = known == long(weights.size());
        if (top_k > 0) {
            if (top_k > known && !all) return -1;
            total = 0;
            for (long i = 0; i < known && i < top_k; ++i) total += weights[order[i]];
        }
        kept = 0;
        for (long i = 0; i < known; ++i) {
            const double weight = weights[order[i]];
            if (i > 0 && ((top_k > 0 && i >= top_k) || kept >= top_p * total || weight < min_p)) return i;
            kept += weight;
        }
        return all || kept >= top_p * total || (top_k > 0 && known >= top_k) ? known : -1;
    }

    long draw(const float* row, long count, double temperature, double top_k, double top_p, double min_p, double chance) {
        const float most = largest(row, count);
        if (temperature == 0) return std::find(row, row + count, most) - row;
        const double total = weigh(row, count, most, temperature);
        if (top_k <= 0 && top_p >= 1 && min_p <= 0) return from_all(chance * total);
        double kept = 0;
        sort_above(1e-3f);
        long left = cut(top_k, top_p, min_p, total, kept);
        if (left < 0) {
            sort_above(0.0f);
            left = cut(top_k, top_p, min_p, total, kept);
        }
        return order[passes(left, chance * kept, [&](long i) { return weights[order[i]]; })];
    }
};

extern "C" void herdbook_draw(const float* logits, int64_t rows, int64_t vocabulary, const Settings* settings,
                              int64_t* tokens, int threads) {
    const Settings& s = *settings;
#pragma omp parallel num_threads(threads)
    {
        Drawer drawer;
#pragma omp for schedule(dynamic, 1)
        for (int64_t row = 0; row < rows; ++row) {
            tokens[row] = drawer.draw(logits + row * vocabulary, vocabulary, s.temperature[row], s.top_k[row], s.top_p[row],
                                      s.min_p[row], s.chance[row]);
            if (tokens[row] >= vocabulary) tokens[row] = 0;  // a row of NaN: as argmax, anything
        }
    }
}
