/* The kernels for Python: tensors come as addresses, checked by eggs_core/kernels/__init__.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "auction.h"
#include "b_matching.h"
#include "best_n.h"
#include "gram.h"
#include "nearest.h"
#include "nm_linear.h"
#include "pairs.h"

static int matrix(const Py_ssize_t *n, eggs_packed *W) {
    if (n[7] < EGGS_F32 || n[7] > EGGS_BF16) {
        PyErr_SetString(PyExc_ValueError, "no such dtype");
        return -1;
    }
    *W = (eggs_packed){(const void *)n[0], (const uint8_t *)n[1], n[2], n[3], n[4], n[5], n[6], (eggs_dtype)n[7]};
    return 0;
}

static PyObject *best_level(PyObject *self, PyObject *nothing) {
    (void)self, (void)nothing;
    return PyLong_FromLong(eggs_best_level());
}

#define READ(COUNT)                                                                                                   \
    Py_ssize_t n[COUNT];                                                                                              \
    (void)self;                                                                                                       \
    if (count != COUNT) return PyErr_Format(PyExc_TypeError, "%d numbers are wanted", COUNT);                         \
    for (int i = 0; i < COUNT; i++) {                                                                                 \
        n[i] = PyLong_AsSsize_t(arguments[i]);                                                                        \
        if (n[i] == -1 && PyErr_Occurred()) return NULL;                                                              \
    }
#define READ_WITH_MATRIX(COUNT)                                                                                       \
    READ(COUNT)                                                                                                       \
    eggs_packed W;                                                                                                    \
    if (matrix(n, &W)) return NULL;

static PyObject *linear(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ_WITH_MATRIX(14)
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = eggs_linear(&W, (const void *)n[8], (const void *)n[9], (void *)n[10], n[11], (eggs_level)n[12], (int)n[13]);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *unpack(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ_WITH_MATRIX(13)
    Py_BEGIN_ALLOW_THREADS
    eggs_unpack(&W, n[8], n[9], (void *)n[10], (eggs_level)n[11], (int)n[12]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *best_n(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(11)
    Py_BEGIN_ALLOW_THREADS
    eggs_best_n((const int32_t *)n[0], (uint8_t *)n[1], n[2], n[3], (int)n[4], (int)n[5], (double *)n[6], (uint8_t *)n[7],
                (int64_t *)n[8], (eggs_level)n[9], (int)n[10]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* The last number is a float: how much the multipliers shrink. */
static PyObject *project(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    double shrink = count ? PyFloat_AsDouble(arguments[--count]) : 0;
    READ(9)
    if (PyErr_Occurred()) return NULL;
    Py_BEGIN_ALLOW_THREADS
    eggs_project((float *)n[0], (const float *)n[1], n[2], (int)n[3], (int)n[4], (float)shrink, (void *)n[5], (int)n[6],
                 (eggs_level)n[7], (int)n[8]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *kept_sums(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(6)
    Py_BEGIN_ALLOW_THREADS
    eggs_kept_sums((const int32_t *)n[0], (const uint8_t *)n[1], n[2], (double *)n[3], (eggs_level)n[4], (int)n[5]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *nearest(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(13)
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = eggs_nearest((const int32_t *)n[0], (const uint8_t *)n[1], n[2], n[3], (int)n[4], (int)n[5],
                          (const int64_t *)n[6], n[7], n[8], (float *)n[9], (int64_t *)n[10], (eggs_level)n[11],
                          (int)n[12]);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* P, need, problems, rows, n, m */
#define READ_WITH_PROBLEMS(COUNT)                                                                                      \
    READ(COUNT)                                                                                                       \
    eggs_problems problems = {(const int64_t *)n[0], (const int64_t *)n[1], n[2], n[3], (int)n[4], (int)n[5]};

static PyObject *raise_multipliers(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ_WITH_PROBLEMS(10)
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = eggs_raise_multipliers(&problems, (int64_t *)n[6], (int)n[7], (eggs_level)n[8], (int)n[9]);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *solve(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ_WITH_PROBLEMS(12)
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = eggs_solve(&problems, (int64_t *)n[6], (uint8_t *)n[7], (int64_t *)n[8], (int64_t *)n[9], (eggs_level)n[10],
                        (int)n[11]);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *bounds(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ_WITH_PROBLEMS(10)
    Py_BEGIN_ALLOW_THREADS
    eggs_bounds(&problems, (const int64_t *)n[6], (int64_t *)n[7], (eggs_level)n[8], (int)n[9]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *take(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(17)
    eggs_layer layer = {(const float *)n[0], (const uint8_t *)n[1], n[2], (int)n[3], (int)n[4]};
    Py_BEGIN_ALLOW_THREADS
    eggs_take(&layer, (const int64_t *)n[5], (const int64_t *)n[6], (const int64_t *)n[7], n[8], n[9], n[10], (double)n[11],
              (int64_t *)n[12], (double *)n[13], (int64_t *)n[14], (int64_t *)n[15], (int)n[16]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *put(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(11)
    Py_BEGIN_ALLOW_THREADS
    eggs_put((uint8_t *)n[0], n[1], (int)n[2], (const int64_t *)n[3], (const int64_t *)n[4], (const int64_t *)n[5],
             (const uint8_t *)n[6], n[7], n[8], (const uint8_t *)n[9], (int)n[10]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *sums_of_larger(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(8)
    Py_BEGIN_ALLOW_THREADS
    eggs_sums_of_larger((const float *)n[0], n[1], (const float *)n[2], n[3], n[4], (float *)n[5], (eggs_level)n[6], (int)n[7]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *auction(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(9)
    Py_BEGIN_ALLOW_THREADS
    eggs_auction((const float *)n[0], n[1], n[2], (double *)n[3], (const double *)n[4], n[5], (int64_t *)n[6],
                 (eggs_level)n[7], (int)n[8]);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *add_gram(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    READ(6)
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = eggs_add_gram((const uint16_t *)n[0], n[1], n[2], (float *)n[3], (eggs_level)n[4], (int)n[5]);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"best_level", best_level, METH_NOARGS, "The highest level of the processor."},
    {"linear", (PyCFunction)(void (*)(void))linear, METH_FASTCALL,
     "linear(values, mask, rows, columns, n, m, dtype, x, bias or 0, y, tokens, level, threads)"},
    {"unpack", (PyCFunction)(void (*)(void))unpack, METH_FASTCALL,
     "unpack(values, mask, rows, columns, n, m, dtype, first, last, dense, level, threads)"},
    {"best_n", (PyCFunction)(void (*)(void))best_n, METH_FASTCALL,
     "best_n(scores, mask, rows, columns, n, m, lost, edges, degree, level, threads)"},
    {"project", (PyCFunction)(void (*)(void))project, METH_FASTCALL,
     "project(Y, target, groups, n, m, rest, whether of bfloat16, level, threads, shrink)"},
    {"kept_sums", (PyCFunction)(void (*)(void))kept_sums, METH_FASTCALL,
     "kept_sums(scores, mask, count, sums, level, threads)"},
    {"nearest", (PyCFunction)(void (*)(void))nearest, METH_FASTCALL,
     "nearest(scores, mask, rows, columns, n, m, channels, count, size, by, row, level, threads)"},
    {"raise_multipliers", (PyCFunction)(void (*)(void))raise_multipliers, METH_FASTCALL,
     "raise_multipliers(P, need, problems, rows, n, m, multipliers, rounds, level, threads)"},
    {"solve", (PyCFunction)(void (*)(void))solve, METH_FASTCALL,
     "solve(P, need, problems, rows, n, m, multipliers, kept, edges, sums, level, threads)"},
    {"bounds", (PyCFunction)(void (*)(void))bounds, METH_FASTCALL,
     "bounds(P, need, problems, rows, n, m, multipliers, bounds, level, threads)"},
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL,
     "take(scores, mask, columns, n, m, groups, rows, counts, problems, size, fixed, units, P, unit, edges, best, threads)"},
    {"put", (PyCFunction)(void (*)(void))put, METH_FASTCALL,
     "put(mask, columns, m, groups, rows, counts, solved, problems, size, kept, threads)"},
    {"sums_of_larger", (PyCFunction)(void (*)(void))sums_of_larger, METH_FASTCALL,
     "sums_of_larger(A, a, B, b, length, sums, level, threads)"},
    {"auction", (PyCFunction)(void (*)(void))auction, METH_FASTCALL,
     "auction(cost, count, size, price, step, bids, owner, level, threads)"},
    {"add_gram", (PyCFunction)(void (*)(void))add_gram, METH_FASTCALL, "add_gram(X, tokens, columns, gram, level, threads)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_compiled", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && (PyModule_AddIntConstant(module, "SCORES", EGGS_SCORES) ||
                           PyModule_AddIntConstant(module, "ROWS", EGGS_ROWS)))
        Py_CLEAR(module);
    return module;
}
