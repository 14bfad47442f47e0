// Answer windows from C++: float32 samples on stdin, row by row, a window after the other.
//
//   c++ windows.cpp $(pkg-config --cflags --libs mmkd) -o windows
//   ./windows student.edge < windows.f32
#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <mmkd.h>

class Student {
public:
    explicit Student(const std::string &path)
    {
        char error[200] = "";
        mmkd_bundle *opened = nullptr;
        if (mmkd_open_file(path.c_str(), &opened, error, sizeof error)) throw std::runtime_error(error);
        bundle.reset(opened);
        mmkd_predictor *created = nullptr;
        if (mmkd_predictor_open(opened, nullptr, &created, error, sizeof error)) throw std::runtime_error(error);
        predictor.reset(created);
        facts = mmkd_describe(opened, 0);
    }

    mmkd_prediction predict(const std::vector<float> &window)
    {
        mmkd_prediction prediction;
        mmkd_predict(predictor.get(), window.data(), facts.samples, facts.channels, std::nan(""), &prediction);
        return prediction;
    }

    mmkd_student facts{};

private:
    std::unique_ptr<mmkd_bundle, decltype(&mmkd_close)> bundle{nullptr, mmkd_close};
    std::unique_ptr<mmkd_predictor, decltype(&mmkd_predictor_close)> predictor{nullptr, mmkd_predictor_close};
};

int main(int count, char **arguments)
{
    if (count != 2) return 2;
    try {
        Student student(arguments[1]);
        std::vector<float> window(static_cast<std::size_t>(student.facts.samples) * student.facts.channels);
        while (std::fread(window.data(), sizeof(float), window.size(), stdin) == window.size()) {
            const mmkd_prediction answer = student.predict(window);
            std::printf("%s %s %.6f\n", mmkd_condition_name(answer.condition), answer.label, answer.probability);
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 6;
    }
}
