// Activations as products read them.

#pragma once

#include <cstdint>
#include <vector>

// Numbers of each token, each in cache lines of its own: vectors then never straddle two, and one line more than needed
// keeps the same number of neighbouring tokens from meeting in one set of the cache where 4 KB divides a row.
template <class E>
struct Rows {
    long stride = 0;
    void fit(long tokens, long width) {
        stride = (width * sizeof(E) + 127) / 64 * 64 / sizeof(E);
        numbers.resize(tokens * stride + 64 / sizeof(E));
    }
    E* operator[](long token) { return first() + token * stride; }
    const E* operator[](long token) const { return const_cast<Rows*>(this)->first() + token * stride; }

private:
    std::vector<E> numbers;
    E* first() { return reinterpret_cast<E*>((reinterpret_cast<uintptr_t>(numbers.data()) + 63) / 64 * 64); }
};
